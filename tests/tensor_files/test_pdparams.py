"""Paddle's .pdparams files: values stay in the file until they are used, and Paddle reads written files."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import paddle
import pytest

from paddlemix.tensor_files.pdparams import open_pdparams, write_saved
from paddlemix.tensor_files.stored import CheckpointError, from_array

CODES = ("b1", "i1", "i2", "i4", "i8", "u1", "f2", "f4", "f8")


def make_state() -> dict[str, np.ndarray]:
    """Return arrays of every dtype, and of forms that a pickle keeps in other ways."""
    rng = np.random.default_rng(0)
    state = {code: rng.integers(0, 2, (3, 5)).astype(code) for code in CODES}
    state["large"] = rng.standard_normal((70, 300)).astype(np.float32)
    state["fortran"] = np.asfortranarray(state["large"])
    return state | {"number": np.array(2.5, np.float32), "empty": np.zeros((0, 3), np.float32)}


def check_equal(found, state) -> None:
    assert list(found) == list(state)
    for name, values in state.items():
        assert (found[name].dtype, found[name].shape) == (str(values.dtype), values.shape)
        assert found[name].values.dtype == values.dtype
        np.testing.assert_array_equal(found[name].values, values)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_every_dtype_that_paddle_saves_is_read(tmp_path, protocol):
    paddle.save(make_state(), str(tmp_path / "x"), protocol=protocol)
    check_equal(open_pdparams(tmp_path / "x"), make_state())


@pytest.mark.parametrize("return_numpy", [True, False])
def test_paddle_loads_written_file(tmp_path, return_numpy):
    state, halves = make_state(), np.array([0x3F80, 0xC000], np.uint16)
    tensors = {name: from_array(values) for name, values in state.items()} | {"half": from_array(halves, "bfloat16")}
    with open(tmp_path / "x.pdparams", "wb") as file:
        write_saved(file, tensors)
    loaded = paddle.load(str(tmp_path / "x.pdparams"), return_numpy=return_numpy)
    assert list(loaded) == [*state, "half"]
    for name, values in state.items():
        np.testing.assert_array_equal(np.asarray(loaded[name]), values)
        assert str(loaded[name].dtype).removeprefix("paddle.") == str(values.dtype)
    if return_numpy:
        np.testing.assert_array_equal(loaded["half"], halves)
    else:
        assert loaded["half"].dtype == paddle.bfloat16
        assert loaded["half"].astype("float32").tolist() == [1.0, -2.0]
    found = open_pdparams(tmp_path / "x.pdparams")
    assert found["half"].dtype == "bfloat16"
    check_equal({name: found[name] for name in state}, state)


def test_written_file_loads_into_a_layer_and_an_optimizer_free_state_dict(tmp_path):
    layer = paddle.nn.Linear(3, 4)
    tensors = {name: from_array(value.numpy() + 1) for name, value in layer.state_dict().items()}
    with open(tmp_path / "x.pdparams", "wb") as file:
        write_saved(file, tensors)
    missing, unexpected = layer.set_state_dict(paddle.load(str(tmp_path / "x.pdparams")))
    assert not missing and not unexpected
    np.testing.assert_array_equal(layer.weight.numpy(), tensors["weight"].values)


def test_written_file_is_read_by_the_loader_of_paddlemix(tmp_path):
    from paddlenlp.transformers.model_utils import load_state_dict  # what PaddleMIX's from_pretrained calls

    halves = from_array(np.array([0x3F80, 0xC000], np.uint16), "bfloat16")
    with open(tmp_path / "model_state.pdparams", "wb") as file:
        write_saved(file, {"a": from_array(np.arange(6.0).reshape(2, 3)), "b": halves})
    loaded = load_state_dict(str(tmp_path / "model_state.pdparams"))
    np.testing.assert_array_equal(np.asarray(loaded["a"]), np.arange(6.0).reshape(2, 3))
    assert paddle.to_tensor(loaded["b"]).astype("float32").tolist() == [1.0, -2.0]


@pytest.mark.parametrize(("protocol", "most"), [(4, 2), (2, 6)])  # text of protocol 2 has to be decoded
def test_walking_a_file_holds_one_array_at_a_time(tmp_path, protocol, most):
    num_bytes, count = 16 << 20, 16
    arrays = {str(n): np.full(num_bytes, n, np.uint8) for n in range(count)}
    (tmp_path / "x").write_bytes(pickle.dumps(arrays, protocol=protocol))
    code = (
        "import resource, sys; from paddlemix.tensor_files.pdparams import open_pdparams; import numpy as np;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "print([int(np.array(t.values)[0]) for t in open_pdparams(sys.argv[1]).values()]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True, check=True)
    values, kilobytes = done.stdout.splitlines()
    assert values == str(list(range(count)))
    assert int(kilobytes) << 10 < (most + 0.5) * num_bytes


def test_values_are_read_only_and_follow_the_file(tmp_path):
    (tmp_path / "x").write_bytes(pickle.dumps({"a": np.arange(1000.0)}, protocol=4))
    tensor = open_pdparams(tmp_path / "x")["a"]
    assert not tensor.values.flags.writeable
    content = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(content.replace(np.float64(7).tobytes(), np.float64(-7).tobytes()))
    assert tensor.values[7] == -7


def state_of(shape, dtype=b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4\x89\x88tR", data=b"C\x08" + bytes(8)) -> bytes:
    """Return the pickle of {"a": array} whose state has this shape, dtype and data."""
    make = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
    return b"\x80\x04}X\x01\x00\x00\x00a" + make + b"(K\x01" + shape + dtype + b"\x89" + data + b"tbs."


def number(value) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def test_array_by_hand_is_read(tmp_path):
    (tmp_path / "x").write_bytes(state_of(number((2,))))
    assert open_pdparams(tmp_path / "x")["a"].values.tolist() == [0, 0]


DAMAGED = {
    "shape-too-large": state_of(number((3,))),
    "shape-too-small": state_of(number((1,))),
    "huge-shape": state_of(number((2**62, 2**62))),
    "huge-but-empty": state_of(number((0, 2**70))),
    "negative-shape": state_of(number((-2,))),
    "shape-is-a-number": state_of(number(2)),
    "too-many-axes": state_of(number((2, *[1] * 33))),
    "dtype-is-a-text": state_of(number((2,)), dtype=number("f4")),
    "byte-order-of-nothing": state_of(
        number((2,)), dtype=b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4tR(K\x03X\x01\x00\x00\x00?tb"
    ),
    "data-is-a-text": state_of(number((2,)), data=number("12345678")),
    "data-beyond-the-end": state_of(number((2,)), data=b"\x8e" + (1 << 62).to_bytes(8, "little")),
    "cut-up-into-nothing": pickle.dumps({"UnpackBigParamInfor@@": {"a": {"OriginShape": (2,), "slices": []}}}),
    "cut-up-and-lost": pickle.dumps({"UnpackBigParamInfor@@": {"a": {"OriginShape": (2,), "slices": ["b"]}}}, 4),
    "cut-up-wrongly": pickle.dumps(
        {"b": np.ones(3), "UnpackBigParamInfor@@": {"a": {"OriginShape": (2,), "slices": ["b"]}}}, 4
    ),
    "key-that-takes-for-ever": b"\x80\x04})" + b"2\x86" * 200 + b"Ns.",
    "attribute-of-a-function": b"\x80\x04c_codecs\nencode\n}X\x0c\x00\x00\x00__defaults__)sb.",
    "attribute-of-a-class": b"\x80\x04cnumpy\ndtype\nN}X\x04\x00\x00\x00codeNs\x86b.",
    "persistent": b"\x80\x04}X\x01\x00\x00\x00a)Qs.",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_or_hostile_pickle_is_refused_on_opening(tmp_path, content):
    (tmp_path / "x.pdparams").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pdparams is refused: "):
        open_pdparams(tmp_path / "x.pdparams")


def test_pointer_of_git_lfs_is_refused_with_a_hint(tmp_path):
    (tmp_path / "x").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        open_pdparams(tmp_path / "x")
