"""Tensors made from others: rounding as torch rounds, regions as whole arrays, and shapes as the model has them."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_folder
import torch

from paddlemix.checkpoints.layouts.shapes import check_complete, parameter_shapes
from paddlemix.checkpoints.load import load_model
from paddlemix.tensor_files.stored import CheckpointError, from_array
from paddlemix.tensor_files.transforms import cast, gathered_rows, open_regions, padded_rows, sliced_rows, transposed

DTYPES = ("float32", "float16", "bfloat16")


def to_torch(values: np.ndarray, dtype: str) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(values.view(np.int16) if dtype == "bfloat16" else values))
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def from_torch(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def samples() -> torch.Tensor:
    """Return floats of all sizes that float16 can hold, among them ties, subnormals, zeros and infinities."""
    rng = np.random.default_rng(0)
    wide = rng.standard_normal(5000) * 10.0 ** rng.integers(-9, 4, 5000)
    ties = (np.arange(-600, 600) * 2 + 1) * 2.0**-9 + 1  # between two adjacent bfloat16 values
    edges = [0.0, -0.0, np.inf, -np.inf, 65504.0, 2.0**-24, 2.0**-25, 3 * 2.0**-25, 65519.0]
    return torch.tensor(np.concatenate([wide, ties, edges]), dtype=torch.float32)


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", DTYPES)
def test_cast_rounds_as_torch_does(source, target):
    stored = samples().to(getattr(torch, source))
    stored = stored[torch.isfinite(stored.half()) | ~torch.isfinite(stored)]
    result = cast(from_array(from_torch(stored), source), target)
    assert result.dtype == target
    np.testing.assert_array_equal(result.values, from_torch(stored.to(getattr(torch, target))))


def test_nan_stays_nan():
    for target in DTYPES:
        values = cast(from_array(np.array([np.nan, -np.nan], np.float32)), target).values
        assert torch.isnan(to_torch(values, target)).all()


@pytest.mark.parametrize(("value", "target"), [(65520.0, "float16"), (3.4e38, "bfloat16"), (-1e300, "float32")])
def test_value_that_a_dtype_cannot_hold_is_an_error_and_not_an_infinity(value, target):
    tensor = from_array(np.array([1.0, value], np.float64 if target == "float32" else np.float32))
    with pytest.raises(CheckpointError, match=f"too large for {target}"):
        cast(tensor, target).values  # noqa: B018


def test_integers_are_not_cast():
    tensor = from_array(np.arange(3))
    assert cast(tensor, "float16") is tensor


def test_transposing_twice_returns_the_tensor_even_with_a_cast_between():
    tensor = from_array(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert transposed(transposed(tensor)) is tensor
    both = transposed(cast(transposed(tensor), "float16"))
    assert both.step == "cast"
    np.testing.assert_array_equal(both.values, tensor.values.astype(np.float16))


def test_rows_are_padded_with_zeros_or_their_mean():
    values = np.array([[1.0, 2.0], [3.0, 6.0]], np.float32)
    np.testing.assert_array_equal(padded_rows(from_array(values), 4).values[2:], np.zeros((2, 2)))
    np.testing.assert_array_equal(padded_rows(from_array(values), 4, "mean").values, [[1, 2], [3, 6], [2, 4], [2, 4]])
    bits = from_torch(torch.from_numpy(values).bfloat16())
    mean = padded_rows(from_array(bits, "bfloat16"), 3, "mean").values[2]
    np.testing.assert_array_equal(to_torch(mean, "bfloat16").float(), [2.0, 4.0])


def test_wrong_shapes_and_dtypes_are_refused_before_reading():
    tensor, both = from_array(np.zeros((2, 3), np.float32)), [(0, 0, 2), (1, 0, 2)]
    for wrong in (
        lambda: padded_rows(tensor, 1),
        lambda: sliced_rows(tensor, 1, 3),
        lambda: gathered_rows([tensor, from_array(np.zeros((2, 4), np.float32))], both, "joined"),
        lambda: gathered_rows([tensor, from_array(np.zeros((2, 3), np.float16))], both, "joined"),
        lambda: cast(tensor, "int8"),
    ):
        with pytest.raises(CheckpointError):
            wrong()


def chains():
    """Return tensors made in several steps, and the same values made with NumPy."""
    values = np.random.default_rng(1).standard_normal((70, 9)).astype(np.float32)
    tensor = from_array(values)
    half = values.astype(np.float16)
    yield transposed(cast(tensor, "float16")), half.T
    yield transposed(sliced_rows(transposed(tensor), 2, 7)), values[:, 2:7]
    yield padded_rows(sliced_rows(tensor, 5, 40), 60), np.concatenate([values[5:40], np.zeros((25, 9), np.float32)])
    yield padded_rows(transposed(cast(tensor, "float16")), 12), np.concatenate([half.T, np.zeros((3, 70), np.float16)])
    twice = gathered_rows([transposed(tensor), transposed(tensor)], [(0, 0, 9), (1, 0, 9)], "joined")
    yield cast(transposed(twice), "float16"), np.concatenate([half, half], axis=1)
    yield cast(from_array(values[0]), "float16"), half[0]
    yield cast(from_array(values.reshape(7, 10, 3, 3)), "float16"), half.reshape(7, 10, 3, 3)
    yield cast(from_array(np.float32(0.1).reshape(())), "float16"), np.float16(0.1).reshape(())


@pytest.mark.parametrize("block_bytes", [1, 64, 1 << 20])
def test_blocks_in_a_row_are_the_whole_array(monkeypatch, block_bytes):
    monkeypatch.setattr("paddlemix.tensor_files.transforms.BLOCK_BYTES", block_bytes)
    for tensor, expected in chains():
        assert tuple(tensor.shape) == expected.shape
        np.testing.assert_array_equal(tensor.values, expected)
        blocks = list(tensor.blocks())
        assert all(block.flags.c_contiguous for block in blocks)
        assert b"".join(block.tobytes() for block in blocks) == expected.tobytes()
        if expected.ndim == 2:
            np.testing.assert_array_equal(open_regions(tensor)(slice(1, 5), slice(2, 4)), expected[1:5, 2:4])


@pytest.mark.parametrize("mode", ["pad", "anyres"])
def test_shapes_from_the_configuration_are_those_of_the_model(mode):
    model = load_model(tiny_folder.folder(mode), device="cpu")
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert parameter_shapes(model.config) == expected


def test_a_whole_part_that_is_missing_is_called_by_its_name():
    config = load_model(tiny_folder.folder("anyres"), device="cpu").config
    tensors = {name: from_array(np.zeros(shape, np.float32)) for name, shape in parameter_shapes(config).items()}
    check_complete("x", config, tensors)
    for start, part in (("vision_tower.", "vision tower"), ("projector.", "projector"), ("language", "language model")):
        rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(start)}
        with pytest.raises(CheckpointError, match=f"the {part} is missing"):
            check_complete("x", config, rest)
    tensors.pop("image_newline")
    with pytest.raises(CheckpointError, match="1 tensor missing: image_newline"):
        check_complete("x", config, tensors)
