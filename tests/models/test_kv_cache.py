"""Slots of the key-value cache against NumPy arrays."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix.models.kv_cache import BUCKET, KVCache, bucketed

LAYERS, SLOTS, HEADS, DIM = 2, 3, 2, 4


def filled(dtype: str = "float32", lengths=(5, 9, 0), capacity: int = BUCKET) -> tuple[KVCache, np.ndarray]:
    """Return a cache of random numbers at every place, and these [2, layers, slots, heads, capacity, D]."""
    cache = KVCache(LAYERS, SLOTS, HEADS, DIM, capacity, dtype)
    numbers = np.random.default_rng(0).standard_normal([2, LAYERS, SLOTS, HEADS, cache.capacity, DIM]).astype(dtype)
    for layer in range(LAYERS):
        cache.keys[layer], cache.values[layer] = (paddle.to_tensor(each[layer]) for each in numbers)
    cache.lengths, cache.is_long = list(lengths), [False, True, False]
    return cache, numbers


def content(cache: KVCache) -> np.ndarray:
    return np.stack([[tensor.numpy() for tensor in stores] for stores in (cache.keys, cache.values)])


def test_a_new_cache_is_empty_and_rounded_up_to_a_bucket():
    cache = KVCache(LAYERS, SLOTS, HEADS, DIM, BUCKET + 1, "float32")
    assert cache.capacity == 2 * BUCKET and cache.num_slots == SLOTS
    assert cache.lengths == [0] * SLOTS and cache.is_long == [False] * SLOTS
    assert cache.num_bytes == content(cache).nbytes and not content(cache).any()
    assert [bucketed(number) for number in (0, 1, BUCKET, BUCKET + 1)] == [BUCKET, BUCKET, BUCKET, 2 * BUCKET]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_written_rows_are_those_of_the_positions_of_the_slots(dtype):
    cache, expected = filled(dtype)
    slots, positions = [2, 0, 0, 1], [7, 3, 4, 127]
    new = np.random.default_rng(1).standard_normal([2, 1, HEADS, 4, DIM]).astype(dtype)
    cache.write(1, cache.rows(slots, positions), *map(paddle.to_tensor, new))
    for number, (slot, position) in enumerate(zip(slots, positions, strict=True)):
        expected[:, 1, slot, :, position] = new[:, 0, :, number]
    np.testing.assert_array_equal(content(cache), expected)


def test_next_rows_are_those_of_each_slots_length():
    cache, _ = filled()
    found = cache.next_rows(paddle.to_tensor(cache.lengths)).numpy().reshape([SLOTS, HEADS])
    for slot, length in enumerate(cache.lengths):
        np.testing.assert_array_equal(found[slot], cache.rows([slot], [length]).numpy())


@pytest.mark.parametrize("slot", [None, 0, 2])
def test_a_layer_is_returned_for_a_slot_or_for_all(slot):
    cache, expected = filled()
    rows = slice(None) if slot is None else slice(slot, slot + 1)
    for found, numbers in zip(cache.layer(1, slot), expected, strict=True):
        np.testing.assert_array_equal(found.numpy(), numbers[1, rows])


@pytest.mark.parametrize(("start", "end"), [(0, 9), (2, 7), (0, BUCKET), (3, 3)])
def test_taken_positions_are_copies_of_keys_and_values(start, end):
    cache, expected = filled()
    parts = cache.take(1, start, end).parts
    cache.keys[0].fill_(0.0)
    assert len(parts) == 2 * LAYERS
    for number, part in enumerate(parts):
        np.testing.assert_array_equal(part.numpy(), expected[number // LAYERS, number % LAYERS, 1:2, :, start:end])


@pytest.mark.parametrize("start", [0, 4])
def test_what_was_taken_is_put_into_another_slot(start):
    cache, expected = filled()
    cache.put(2, start, cache.take(1, 2, 9).between(1, 7))
    expected[:, :, 2, :, start : start + 6] = expected[:, :, 1, :, 3:9]
    np.testing.assert_array_equal(content(cache), expected)
    assert cache.lengths == [5, 9, start + 6]


def test_more_than_fits_is_not_put():
    cache, _ = filled()
    with pytest.raises(AssertionError):
        cache.put(2, cache.capacity - 5, cache.take(1, 3, 9))


def test_a_prefix_is_copied_with_its_length_and_its_scaling():
    cache, expected = filled()
    cache.copy_prefix(1, 0, 6)
    expected[:, :, 0, :, :6] = expected[:, :, 1, :, :6]
    np.testing.assert_array_equal(content(cache), expected)
    assert cache.lengths == [6, 9, 0] and cache.is_long == [True, True, False]


@pytest.mark.parametrize("capacity", [9, 2 * BUCKET, 3 * BUCKET], ids=["smaller", "equal", "larger"])
@pytest.mark.parametrize("slots", [[0, 1, 2], [1], [2, 1], [0, 1, 2, None, None], [None, 1, 1]], ids=str)
def test_slots_are_kept_reordered_and_emptied_with_another_capacity(slots, capacity):
    cache, numbers = filled(capacity=2 * BUCKET)
    cache.resize(slots, capacity)
    size = bucketed(capacity)
    kept = min(size, 2 * BUCKET)
    expected = np.zeros([2, LAYERS, len(slots), HEADS, size, DIM], np.float32)
    for target, source in enumerate(slots):
        if source is not None:
            expected[:, :, target, :, :kept] = numbers[:, :, source, :, :kept]
    np.testing.assert_array_equal(content(cache), expected)
    assert cache.capacity == size and cache.num_slots == len(slots)
    assert cache.lengths == [0 if slot is None else (5, 9, 0)[slot] for slot in slots]
    assert cache.is_long == [slot == 1 for slot in slots]


def test_a_cache_does_not_shrink_below_what_its_slots_contain():
    cache, _ = filled(lengths=(5, BUCKET + 1, 0), capacity=2 * BUCKET)
    cache.resize([0, None], 5)
    assert cache.capacity == BUCKET
    cache, _ = filled(lengths=(5, BUCKET + 1, 0), capacity=2 * BUCKET)
    with pytest.raises(AssertionError):
        cache.resize([0, 1], 5)
