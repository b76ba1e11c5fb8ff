"""Damaged and hostile weight files: refused with the file's name, and nothing in them runs."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.save import save_model
from paddlemix.tensor_files.pdparams import open_pdparams
from paddlemix.tensor_files.safetensors import open_safetensors
from paddlemix.tensor_files.stored import CheckpointError, read_json
from paddlemix.tensor_files.torch_bin import open_torch_bin

STATE = {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.arange(5, dtype=np.int64)}


def safetensors_bytes(header, data: bytes = bytes(16)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(4,), offsets=(0, 16)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HEADERS = {
    "not-an-object": [],
    "entry-is-a-number": {"a": 5},
    "entry-is-empty": {"a": {}},
    "no-dtype": {"a": {"shape": [4], "data_offsets": [0, 16]}},
    "no-shape": {"a": {"dtype": "F32", "data_offsets": [0, 16]}},
    "unknown-dtype": {"a": entry("F8_E4M3", (16,))},
    "dtype-is-a-list": {"a": entry(["F32"])},
    "negative-shape": {"a": entry(shape=(-2, -2))},
    "text-in-shape": {"a": entry(shape=("4",))},
    "fraction-in-shape": {"a": entry(shape=(4.0,))},
    "shape-too-large": {"a": entry(shape=(5,))},
    "product-overflows": {"a": entry(shape=(2**62, 4, 1))},
    "number-overflows": {"a": entry(shape=(2**70,))},
    "fraction-in-offsets": {"a": entry(offsets=(0.0, 16.0))},
    "three-offsets": {"a": entry(offsets=(0, 8, 16))},
    "offsets-beyond-the-file": {"a": entry(shape=(8,), offsets=(0, 32))},
    "offsets-backwards": {"a": entry(offsets=(16, 0))},
    "overlap": {"a": entry(), "b": entry(shape=(2,), offsets=(8, 16))},
    "same-bytes-twice": {"a": entry(), "b": entry()},
    "gap": {"a": entry(shape=(1,), offsets=(0, 4)), "b": entry(shape=(1,), offsets=(12, 16))},
    "unclaimed-end": {"a": entry(shape=(2,), offsets=(0, 8))},
    "huge-but-empty": {"a": entry(shape=(0, 2**70), offsets=(0, 0)), "b": entry()},
    "too-many-axes": {"a": entry(shape=(4, *[1] * 32))},
    "truth-in-shape": {"a": entry(shape=(4, True))},
    "same-name-twice": b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
    b'"a":{"dtype":"I32","shape":[4],"data_offsets":[0,16]}}',
    "same-key-twice": b'{"a":{"dtype":"F32","shape":[4],"shape":[2,2],"data_offsets":[0,16]}}',
    "number-of-5000-digits": b'{"a":{"dtype":"F32","shape":[' + b"1" * 5000 + b'],"data_offsets":[0,16]}}',
    "metadata-is-a-list": {"__metadata__": [], "a": entry()},
    "metadata-holds-a-number": {"__metadata__": {"format": 1}, "a": entry()},
    "no-json": b"{'a'",
    "no-utf-8": b"\xff\xfe",
    "deep-json": b"[" * 100_000,
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_wrong_safetensors_header_is_refused(tmp_path, header):
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes(header))
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        open_safetensors(path)


@pytest.mark.parametrize("size", [2**63, 10**9, 25])
def test_absurd_header_size_is_refused_without_reading_it(tmp_path, size):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", size) + bytes(16))
    with pytest.raises(CheckpointError, match=f"its header would be {size} bytes"):
        open_safetensors(path)


@pytest.mark.parametrize("opened", [open_safetensors, open_pdparams, open_torch_bin, read_json])
def test_a_file_that_shows_no_bytes_is_not_waited_for(opened, tmp_path):
    (tmp_path / "a").symlink_to("/proc/kmsg" if Path("/proc/kmsg").exists() else "/dev/null")
    with pytest.raises(CheckpointError, match=r"0 bytes|not valid JSON"):
        opened(tmp_path / "a")


def test_pointer_of_git_lfs_is_refused_with_a_hint(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(CheckpointError, match=r"x\.safetensors is refused: .*git lfs pull"):
        open_safetensors(tmp_path / "x.safetensors")


def test_safetensors_file_that_is_cut_off_anywhere_is_refused(tmp_path):
    save_file(STATE, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    assert set(open_safetensors(tmp_path / "whole.safetensors")) == set(STATE)
    for length in range(len(whole)):
        (tmp_path / "cut.safetensors").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut\.safetensors"):
            open_safetensors(tmp_path / "cut.safetensors")


def test_cut_off_weights_of_a_model_folder_are_refused(own_copy):
    path = own_copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is cut off"):
        load_model(own_copy, device="cpu")


@pytest.mark.parametrize("name", ["../x.safetensors", "sub/x.safetensors", "/etc/hostname", ".."])
def test_shard_outside_the_folder_is_not_opened(own_copy, name):
    (own_copy / "model.safetensors").replace(own_copy.parent / "x.safetensors")
    (own_copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="outside its folder"):
        load_model(own_copy, device="cpu")


def test_shards_may_be_links_as_in_the_hubs_cache(own_copy, v1_6):
    save_model(load_model(own_copy, device="cpu"), own_copy, max_shard_size="40KB")
    (own_copy.parent / "blobs").mkdir()
    for shard in own_copy.glob("*.safetensors"):
        blob = own_copy.parent / "blobs" / shard.name[6:11]
        shard.rename(blob)
        shard.symlink_to(blob)
    v1_6.check_folder(own_copy)


def test_tensor_that_two_shards_hold_is_refused(own_copy):
    save_model(load_model(own_copy, device="cpu"), own_copy, max_shard_size="40KB")
    first, second = sorted(own_copy.glob("*.safetensors"))[:2]
    second.write_bytes(first.read_bytes())
    with pytest.raises(CheckpointError, match=f"{second.name} holds tensors that another shard holds too"):
        load_model(own_copy, device="cpu")


def test_key_that_is_twice_in_the_config_is_refused(own_copy):
    text = (own_copy / "config.json").read_text()
    (own_copy / "config.json").write_text(text.replace('"dtype"', '"dtype": "float16", "dtype"', 1))
    with pytest.raises(CheckpointError, match=r"config\.json is not valid JSON: one object has the key 'dtype' twice"):
        load_model(own_copy, device="cpu")


def test_missing_shard_is_named(own_copy):
    save_model(load_model(own_copy, device="cpu"), own_copy, max_shard_size="40KB")
    shard = sorted(own_copy.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"shard {shard.name} is missing"):
        load_model(own_copy, device="cpu")


def test_file_saved_by_paddle_is_read(tmp_path):
    path = str(tmp_path / "x.pdparams")
    fortran = np.asfortranarray(STATE["a.weight"])
    for protocol in (2, 3, 4):
        paddle.save({**STATE, "f": fortran, "t": paddle.ones([2], "bfloat16")}, path, protocol=protocol)
        found = open_pdparams(path)
        assert {name: tensor.dtype for name, tensor in found.items()} == {
            "a.weight": "float32",
            "b": "int64",
            "f": "float32",
            "t": "bfloat16",
        }
        np.testing.assert_array_equal(found["a.weight"].values, STATE["a.weight"])
        np.testing.assert_array_equal(found["f"].values, STATE["a.weight"])
        np.testing.assert_array_equal(found["t"].values, [0x3F80, 0x3F80])


def test_array_in_another_byte_order_is_read_by_value(tmp_path):
    (tmp_path / "x").write_bytes(pickle.dumps({"a": STATE["a.weight"].astype(">f4")}, protocol=4))
    np.testing.assert_array_equal(open_pdparams(tmp_path / "x")["a"].values, STATE["a.weight"])


def test_array_that_paddle_cut_up_for_an_older_pickle_is_joined(tmp_path):
    flat = STATE["a.weight"].ravel()
    table = {"a.weight": {"OriginShape": (3, 4), "slices": ["a.weight@@.0", "a.weight@@.1"]}}
    cut = {"a.weight@@.0": flat[:7], "a.weight@@.1": flat[7:], "UnpackBigParamInfor@@": table}
    (tmp_path / "x").write_bytes(pickle.dumps(cut, protocol=2))
    found = open_pdparams(tmp_path / "x")
    assert list(found) == ["a.weight"]
    np.testing.assert_array_equal(found["a.weight"].values, STATE["a.weight"])


class Call:
    """Pickled, a call of a function when it is read."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def hostile(marker) -> dict[str, object]:
    """Return what would make the file `marker` if it ran, or contains something other than an array of numbers."""
    command = f"touch {marker}"
    return {
        "system": {"a": Call(os.system, command)},
        "eval": {"a": Call(builtins.eval, f"open({str(marker)!r}, 'w')")},
        "open": Call(builtins.open, str(marker), "w"),
        "nested": {"a": [({"b": Call(os.system, command)},)]},
        "in-the-name-table": {**STATE, "StructuredToParameterName@@": {"a": Call(os.system, command)}},
        "in-an-object-array": {"a": np.array([Call(os.system, command)], dtype=object)},
        "in-a-dtype": {"a": Call(np.dtype, Call(os.system, command))},
        "object-array": {"a": np.array([None, 1], dtype=object)},
        "text-array": {"a": np.array(["text"])},
        "structured-array": {"a": np.zeros(2, dtype=[("x", "f4")])},
        "object-inside-structure": {"a": np.zeros(2, dtype=[("x", "O")])},
        "scalar": {"a": np.float32(1)},
        "number": {"a": 1},
        "number-as-name": {1: STATE["b"]},
        "list": [STATE["b"]],
        "array-without-state": {"a": Call(np.core.multiarray._reconstruct, np.ndarray, (0,), b"b")},
        "dtype-with-object-flags": {"a": array_with_dtype_state((3, "<", None, None, None, -1, -1, 63))},
    }


def array_with_dtype_state(state: tuple):
    """Return what is read as an array whose dtype has been message to hold objects."""
    dtype = Call(np.dtype, "f4", False, True, state=state)
    whole = (1, (2,), dtype, False, bytes(8))
    return Call(np.core.multiarray._reconstruct, np.ndarray, (0,), b"b", state=whole)


@pytest.mark.parametrize("case", [name for name in hostile("") if name != "dtype-with-object-flags"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_pickle_with_anything_but_arrays_is_refused_and_does_not_run(tmp_path, case, protocol):
    marker = tmp_path / "it-ran"
    path = tmp_path / "x.pdparams"
    path.write_bytes(pickle.dumps(hostile(marker)[case], protocol=protocol))
    with pytest.raises(CheckpointError, match=r"x\.pdparams"):
        open_pdparams(path)
    assert not marker.exists()


def test_false_flags_of_a_dtype_are_not_believed(tmp_path):
    # NumPy's own dtype takes "these are objects" from a file, and then follows the numbers as pointers.
    (tmp_path / "x").write_bytes(pickle.dumps(hostile("")["dtype-with-object-flags"], protocol=4))
    found = open_pdparams(tmp_path / "x")["a"]
    assert found.dtype == "float32" and not found.values.dtype.hasobject


def test_damaged_pickle_is_refused_whatever_it_raises(tmp_path):
    paddle.save(STATE, str(tmp_path / "whole"))
    whole = (tmp_path / "whole").read_bytes()
    path = tmp_path / "cut"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            open_pdparams(path)
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] = rng.choice([0, 1, 0x28, 0x62, 0x7D, 0xFF])
        path.write_bytes(bytes(damaged))
        try:
            open_pdparams(path)
        except CheckpointError as error:
            assert "cut" in str(error)
