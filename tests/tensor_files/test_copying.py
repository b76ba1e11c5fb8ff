"""Copying values: torch's values for every bit pattern, in any shape, transposed or not, into existing memory."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import torch

from paddlemix.checkpoints.load import assign
from paddlemix.ops.host_memory import new_memory
from paddlemix.tensor_files.copying import copy_into
from paddlemix.tensor_files.stored import from_array
from paddlemix.tensor_files.transforms import contiguous

SHAPES = [(1, 1), (1, 1037), (1037, 1), (3, 5), (512, 128), (520, 137), (1025, 264)]


def stored(shape: tuple[int, ...], dtype: str) -> tuple[np.ndarray, torch.Tensor]:
    """Return random finite values as a file has them, and as torch widens them."""
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3  # a few of them subnormal halves
    tensor = tensor.to(getattr(torch, dtype))
    bits = tensor.view(torch.int16).numpy().view(np.uint16) if dtype == "bfloat16" else tensor.numpy()
    return bits, tensor.float()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_bit_pattern_is_widened_as_by_torch(dtype):
    bits = np.arange(1 << 16, dtype=np.uint16)
    expected = torch.from_numpy(bits.view(np.int16)).view(getattr(torch, dtype)).float().numpy()
    for part in (slice(None), np.isfinite(expected)):  # beside an infinity all go another way
        values = bits[part] if dtype == "bfloat16" else bits[part].view(np.float16)
        result = np.empty(values.shape, np.float32)
        copy_into(result, values, dtype)
        np.testing.assert_array_equal(result, expected[part])
        is_number = ~np.isnan(expected[part])
        np.testing.assert_array_equal(result.view(np.uint32)[is_number], expected[part].view(np.uint32)[is_number])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_transposed_and_widened_values_equal_those_of_torch(shape, dtype):
    values, expected = stored(shape, dtype)
    for found, wanted in ((values, expected), (values.T, expected.T)):
        result = np.empty(found.shape, np.float32)
        copy_into(result, found, dtype)
        np.testing.assert_array_equal(result, wanted.numpy())
        np.testing.assert_array_equal(contiguous(found, dtype, widen=True), wanted.numpy())


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "int8", "bool"])
def test_transposing_keeps_the_bits_of_any_dtype(dtype):
    values = np.random.default_rng(0).integers(0, 2, (530, 141)).astype(dtype)
    cut = values[3:, 7:]  # rows that are not contiguous, at an odd address
    for source in (values.T, cut, cut.T):
        result = contiguous(source, dtype)
        assert result.dtype == values.dtype and result.flags.c_contiguous
        np.testing.assert_array_equal(result, np.array(source.tolist(), dtype))


def test_an_array_of_one_or_no_values_is_copied():
    for values in (np.array(3.5, np.float16), np.zeros((0, 4), np.float16), np.zeros((2, 3, 5), np.float16) + 1):
        result = np.full(values.shape, 7, np.float32)
        copy_into(result, values, "float16")
        np.testing.assert_array_equal(result, values)


def test_lazy_parameter_is_allocated_once_and_keeps_written_values():
    with paddle.LazyGuard():
        layer = paddle.nn.Linear(7, 5)
    memory = new_memory(layer.weight)
    memory[:] = np.arange(35, dtype=np.float32).reshape(7, 5)
    np.testing.assert_array_equal(layer.weight.numpy(), memory)
    assert new_memory(layer.weight) is None  # it has values, which stay
    assign(layer.bias, from_array(np.ones(5, np.float16)))  # one that was not given memory
    result = layer(paddle.ones([1, 7]))
    np.testing.assert_array_equal(result.numpy()[0], memory.sum(axis=0) + 1)
    result.sum().backward()
    assert layer.weight.grad.shape == [7, 5]
