"""torch's .bin files without torch: files saved by torch are read, torch loads written files, the rest is refused."""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from paddlemix.tensor_files import torch_archive
from paddlemix.tensor_files.stored import CheckpointError
from paddlemix.tensor_files.torch_bin import open_torch_bin, write_torch_bin


def make_state() -> OrderedDict:
    """Return tensors of every dtype and of every form that a state dict's may have."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(6, 4, generator=generator)
    state = OrderedDict(
        turned=whole.t(),
        rows=whole[2:4],
        columns=whole[:, 1:3],
        every_other=whole[::2, ::3],
        turned_part=whole[1:5].t()[1:],
        parameter=torch.nn.Parameter(torch.ones(3)),
        empty=torch.zeros(0, 3),
        number=torch.tensor(3),
    )
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16):
        state[f"of {dtype}"] = torch.arange(-3, 3).to(dtype)
    state |= {"signed": torch.tensor([-128, 127], dtype=torch.int8), "bool": torch.tensor([True, False])}
    state["byte"] = torch.arange(5, dtype=torch.uint8)
    state._metadata = OrderedDict(version=1)
    return state


def bits(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor as an array; bfloat16 as the upper half of float32's bits."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return (tensor.float().numpy().view(np.uint32) >> 16).astype(np.uint16)
    return tensor.numpy()


def check_equal(found: dict, state: dict) -> None:
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert found[name].dtype == str(tensor.dtype).split(".")[-1]
        assert found[name].shape == tuple(tensor.shape)
        assert found[name].values.dtype == bits(tensor).dtype
        np.testing.assert_array_equal(found[name].values, bits(tensor))


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before-1.6"])
def test_every_dtype_and_stride_that_torch_saves_is_read(tmp_path, is_zip):
    state = make_state()
    torch.save(state, tmp_path / "x.bin", _use_new_zipfile_serialization=is_zip)
    check_equal(open_torch_bin(tmp_path / "x.bin"), state)


@pytest.mark.parametrize("zip64_from", [1 << 30, 0], ids=["small", "as-above-4-GB"])
@pytest.mark.parametrize("is_mapped", [False, True], ids=["read", "mapped"])
def test_torch_loads_written_file_with_weights_only(tmp_path, monkeypatch, zip64_from, is_mapped):
    monkeypatch.setattr(torch_archive, "ZIP64_FROM", zip64_from)
    state = make_state()
    torch.save(state, tmp_path / "x.bin")
    with open(tmp_path / "y.bin", "wb") as file:
        write_torch_bin(file, open_torch_bin(tmp_path / "x.bin"))
    loaded = torch.load(tmp_path / "y.bin", weights_only=True, mmap=is_mapped)
    assert list(loaded) == list(state)
    for name, tensor in state.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)
        assert loaded[name].data_ptr() % 64 == 0 or not is_mapped
    check_equal(open_torch_bin(tmp_path / "y.bin"), state)


def test_written_files_do_not_depend_on_the_time(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.bin")
    tensors = open_torch_bin(tmp_path / "x.bin")
    for name in ("y", "z"):
        with open(tmp_path / name, "wb") as file:
            write_torch_bin(file, tensors)
    assert (tmp_path / "y").read_bytes() == (tmp_path / "z").read_bytes()


def test_opening_and_walking_a_file_holds_one_tensor_at_a_time(tmp_path):
    num_bytes = 16 << 20
    torch.save({str(n): torch.full((num_bytes // 4,), float(n)) for n in range(8)}, tmp_path / "x.bin")
    code = (
        "import resource, sys; from paddlemix.tensor_files.torch_bin import open_torch_bin; import numpy as np;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "print([float(np.array(t.values)[0]) for t in open_torch_bin(sys.argv[1]).values()]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.bin")], capture_output=True, text=True, check=True
    )
    values, kilobytes = done.stdout.splitlines()
    assert values == str([float(n) for n in range(8)])
    assert int(kilobytes) << 10 < 3 * num_bytes  # mapped pages and a copy of one tensor; all of them are eight


class Call:
    """Pickled, a call of a function when it is read."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def hostile(marker) -> dict[str, object]:
    """Return what would make the file `marker` if it ran, or contains something other than a tensor."""
    ones = torch.ones(2)
    return {
        "system": {"a": Call(os.system, f"touch {marker}")},
        "nested": {"a": ones, "b": [({"c": Call(os.system, f"touch {marker}")},)]},
        "torch-function": {"a": Call(torch.load, "x")},
        "whole-module": torch.nn.Linear(2, 2),
        "array": {"a": np.ones(2)},
        "number": {"a": ones, "epoch": 3},
        "list": [ones],
        "nested-dict": {"model": {"a": ones}},
        "number-as-name": {1: ones},
        "sparse": {"a": ones.to_sparse()},
    }


@pytest.mark.parametrize("case", hostile(""))
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before-1.6"])
def test_pickle_with_anything_but_named_tensors_is_refused_and_does_not_run(tmp_path, case, is_zip):
    marker, path = tmp_path / "it-ran", tmp_path / "x.bin"
    torch.save(hostile(marker)[case], path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(CheckpointError, match=r"x\.bin is refused: "):
        open_torch_bin(path)
    assert not marker.exists()


REBUILD = (
    b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n"
    b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ%s\x89}tRs."
)


def write_zip(path, description: bytes, **options) -> None:
    """Write an archive by hand: a description, and six float32 as storage 0."""
    entries = {"x/data.pkl": description, "x/data/0": np.arange(6, dtype=np.float32).tobytes(), "x/version": b"3\n"}
    with zipfile.ZipFile(path, "w", options.get("compression", zipfile.ZIP_STORED)) as archive:
        for name, content in {**entries, **options.get("extra", {})}.items():
            archive.writestr(name, content)


def view(offset: int, shape: tuple, stride: tuple) -> bytes:
    """Return the pickle of a tensor of storage 0 that is seen through offset, shape and stride."""
    numbers = b"".join(pickle.dumps(value, 2)[2:-1] for value in (offset, shape, stride))
    return REBUILD.replace(b"%s", numbers)


def test_view_by_hand_is_read(tmp_path):
    write_zip(tmp_path / "x.bin", view(1, (2, 2), (1, 3)))
    np.testing.assert_array_equal(open_torch_bin(tmp_path / "x.bin")["a"].values, [[1, 4], [2, 5]])


VIEWS = {
    "too-long": view(0, (7,), (1,)),
    "offset-too-large": view(6, (1,), (1,)),
    "end-outside": view(3, (4,), (1,)),
    "stride-outside": view(0, (2, 3), (4, 1)),
    "huge-stride": view(0, (2,), (2**62,)),
    "huge-shape": view(0, (2**62, 2**62), (1, 1)),
    "more-than-the-storage": view(0, (10**12,), (0,)),
    "negative-shape": view(0, (-1,), (1,)),
    "negative-stride": view(5, (3,), (-1,)),
    "negative-offset": view(-1, (1,), (1,)),
    "strides-missing": view(0, (2, 2), (1,)),
    "shape-is-a-number": view(0, 3, (1,)),
    "shape-of-texts": view(0, ("2",), (1,)),
    "shape-of-truth": view(0, (True,), (1,)),
    "too-many-axes": view(0, (1,) * 33, (1,) * 33),
    "huge-but-empty": view(0, (0, 2**70), (1, 1)),
}


@pytest.mark.parametrize("description", VIEWS.values(), ids=VIEWS)
def test_tensor_that_leaves_its_storage_is_refused(tmp_path, description):
    write_zip(tmp_path / "x.bin", description)
    with pytest.raises(CheckpointError, match=r"x\.bin is refused: it holds a tensor "):
        open_torch_bin(tmp_path / "x.bin")


PLAIN = view(0, (6,), (1,))
ARCHIVES = {
    "compressed": ({"compression": zipfile.ZIP_DEFLATED}, "is compressed"),
    "two-descriptions": ({"extra": {"y/data.pkl": PLAIN}}, "2 files data.pkl"),
    "program": ({"extra": {"x/constants.pkl": b""}}, "TorchScript program"),
    "big-endian": ({"extra": {"x/byteorder": b"big"}}, "not little-endian"),
}


@pytest.mark.parametrize(("options", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_archive_without_a_state_dict_is_refused(tmp_path, options, message):
    write_zip(tmp_path / "x.bin", PLAIN, **options)
    with pytest.raises(CheckpointError, match=message):
        open_torch_bin(tmp_path / "x.bin")


@pytest.mark.parametrize("key", [b"../../etc/hostname", b"/etc/hostname", b"1"])
def test_storage_is_only_looked_up_among_the_archives_files(tmp_path, key):
    name = b"X" + len(key).to_bytes(4, "little") + key
    write_zip(tmp_path / "x.bin", PLAIN.replace(b"X\x01\x00\x00\x000", name))
    with pytest.raises(CheckpointError, match=f"has no file x/data/{key.decode()}"):
        open_torch_bin(tmp_path / "x.bin")


def test_file_with_a_path_in_the_archive_is_never_written(tmp_path):
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "x.bin"
    write_zip(path, PLAIN, extra={"../escaped": b"x", "/absolute": b"x"})
    assert list(open_torch_bin(path)) == ["a"]
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["folder", "x.bin"]


def test_file_that_is_twice_in_the_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for content in (PLAIN, PLAIN):
            archive.writestr("x/data.pkl", content)
    with pytest.raises(CheckpointError, match="twice"):
        open_torch_bin(tmp_path / "x.bin")


def test_encrypted_file_is_refused(tmp_path):
    write_zip(tmp_path / "x.bin", PLAIN)
    content = bytearray((tmp_path / "x.bin").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match="encrypted"):
        open_torch_bin(tmp_path / "x.bin")


def test_name_that_differs_between_the_archives_two_lists_is_refused(tmp_path):
    write_zip(tmp_path / "x.bin", PLAIN)
    content = (tmp_path / "x.bin").read_bytes()
    (tmp_path / "x.bin").write_bytes(content.replace(b"x/data/0", b"x/data/1", 1))
    with pytest.raises(CheckpointError, match="is called 'x/data/1' where it begins"):
        open_torch_bin(tmp_path / "x.bin")


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before-1.6"])
def test_file_that_is_cut_off_or_damaged_is_refused_or_read_but_never_crashes(tmp_path, is_zip):
    path = tmp_path / "cut.bin"
    torch.save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}, path, _use_new_zipfile_serialization=is_zip)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut\.bin is refused"):
            open_torch_bin(path)
    rng = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            for tensor in open_torch_bin(path).values():
                assert tensor.values.shape == tensor.shape
        except CheckpointError as error:
            assert "cut.bin" in str(error)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"


@pytest.mark.parametrize(
    ("content", "message"), [(POINTER, "git lfs pull"), (b"hello", "save it again"), (b"", "save")]
)
def test_file_of_something_else_is_refused_with_a_hint(tmp_path, content, message):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_torch_bin(tmp_path / "x.bin")


BOMBS = {
    # Each level contains the previous one twice, so hashing or printing the last one never ends.
    "key": b"\x80\x02}" + b")" + b"2\x86" * 200 + b"Ns.",
    "name-of-dtype": b"\x80\x02}X\x01\x00\x00\x00a)" + b"2\x86" * 200 + b"s.",
    "memo": b"\x80\x02}r\xff\xff\xff\xff.",
    "long-bytes": b"\x80\x04}\x8e" + b"\xff" * 7 + b"\x7f.",
    "attributes-of-a-function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aNsb.",
    "attributes-of-a-value": b"\x80\x02ctorch\nFloatStorage\nN}X\x04\x00\x00\x00nameNs\x86b.",
    "empty-stack": b"\x80\x02.",
    "unbalanced": b"\x80\x02tuR.",
    "later-protocol": b"\x80\x05}.",
    "extension": b"\x80\x02\x82\x01.",
    "class-by-instance": b"\x80\x02(ios\nsystem\n.",
}


@pytest.mark.parametrize("description", BOMBS.values(), ids=BOMBS)
def test_pickle_that_would_hang_or_reach_outside_is_refused_at_once(tmp_path, description):
    write_zip(tmp_path / "x.bin", description)
    if description == BOMBS["memo"]:
        assert open_torch_bin(tmp_path / "x.bin") == {}  # harmless: the place is only a number
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 << 20
        return
    with pytest.raises(CheckpointError, match="is refused"):
        open_torch_bin(tmp_path / "x.bin")
