"""Rows of the key-value cache, reordered and shifted, against NumPy."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix.models.kv_cache import KVCache, take_rows, take_shifted

VALUES = np.arange(1, 4 * 2 * 5 * 3 + 1).reshape(4, 2, 5, 3)


def shifted(row: np.ndarray, shift: int, length: int) -> np.ndarray:
    """Move [2, n, 3] along n, place by place."""
    result = np.zeros([2, length, 3], row.dtype)
    for place in range(length):
        if 0 <= place - shift < row.shape[1]:
            result[:, place] = row[:, place - shift]
    return result


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [1, 2], [3], [0, 0, 0], [3, 1, 2, 0, 0, 1]], ids=str)
@pytest.mark.parametrize("dtype", ["int64", "float32", "float16"])
def test_rows_are_those_of_numpy(rows, dtype):
    np.testing.assert_array_equal(take_rows(paddle.to_tensor(VALUES.astype(dtype)), rows), VALUES.astype(dtype)[rows])


@pytest.mark.parametrize("length", [5, 2, 9])
@pytest.mark.parametrize("shifts", [[0, 0, 0], [1, 0, 3], [-1, 2, -4], [7, -7, 5], [20, -20, 0]], ids=str)
def test_shifted_rows_are_moved_place_by_place_and_zero_elsewhere(shifts, length):
    rows = [2, 0, 2]
    found = take_shifted(paddle.to_tensor(VALUES), rows, shifts, length, axis=2)
    expected = [shifted(VALUES[row], shift, length) for row, shift in zip(rows, shifts, strict=True)]
    np.testing.assert_array_equal(found, np.stack(expected))


def test_cache_keeps_the_rows_taken_in_every_layer_and_which_of_them_are_long():
    cache = KVCache(2, 3, 2, 4, 16, "float32")
    numbers = np.random.default_rng(0).standard_normal([2, 2, *cache.keys[0].shape]).astype(np.float32)
    for layer in range(2):
        cache.keys[layer], cache.values[layer] = (paddle.to_tensor(each) for each in numbers[layer])
    cache.length, cache.is_long = 8, (True, False, True)
    cache.take_rows([1, 2], [0, 0], 6)
    for layer in range(2):
        np.testing.assert_array_equal(cache.keys[layer], numbers[layer, 0, 1:])
        np.testing.assert_array_equal(cache.values[layer], numbers[layer, 1, 1:])
    assert cache.length == 6 and cache.is_long == (False, True)
    cache.take_rows([0], [0], 6)
    assert cache.is_long == (False,)
