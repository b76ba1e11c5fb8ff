"""Attention that reads each slot up to its length equals the masked one over all places, and knows no other slot."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from paddlemix.models.cpu.layer import masked_attention
from paddlemix.models.cpu.slot_attention import SlotAttention
from paddlemix.ops.vector_math import vector_math

NUM_KEYS, NUM_EACH, DIM = 2, 3, 24
pytestmark = pytest.mark.skipif(vector_math() is None, reason="paddle's wheel has no MKL here")


def cache_of(lengths, capacity: int, seed: int = 0):
    """Return what `SlotAttention` reads of a cache of one layer: places out of use hold NaN."""
    random, shape = np.random.default_rng(seed), [len(lengths), NUM_KEYS, capacity, DIM]
    stores = [random.standard_normal(shape).astype(np.float32) for _ in range(2)]
    for store in stores:
        for slot, length in enumerate(lengths):
            store[slot, :, length + 1 :] = np.nan
    keys, values = ([paddle.to_tensor(store)] for store in stores)
    return SimpleNamespace(keys=keys, values=values, lengths=list(lengths))


def queries_of(number: int, scale: float = 1.0):
    random = np.random.default_rng(9)
    return paddle.to_tensor(random.standard_normal([number, NUM_KEYS, NUM_EACH, DIM]).astype(np.float32) * scale)


def attended(cache, query, window=None) -> np.ndarray:
    attention = SlotAttention(vector_math(), cache, NUM_EACH, window)
    return attention(query, cache.keys[0], cache.values[0]).numpy().copy()


@pytest.mark.parametrize("window", [None, 1, 7, 500])
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_it_equals_the_masked_attention(window, scale):
    lengths, capacity = [0, 5, 63, 64, 127, 30, 1, 99], 128
    cache, query = cache_of(lengths, capacity), queries_of(len(lengths), scale)
    places, ends = np.arange(capacity)[None], np.array(lengths)[:, None]
    is_seen = (places <= ends) & (places > ends - (window or capacity))
    bias = np.broadcast_to(np.where(is_seen, 0, -1e9)[:, None, None], [len(lengths), NUM_KEYS, NUM_EACH, capacity])
    keys, values = (paddle.nan_to_num(store[0]) for store in (cache.keys, cache.values))
    expected = masked_attention(paddle.to_tensor(bias.astype(np.float32)), query, keys, values).numpy()
    np.testing.assert_allclose(attended(cache, query, window), expected, rtol=2e-5, atol=2e-6)


def test_a_slot_gets_the_same_bits_in_any_company_and_capacity():
    query = queries_of(12)
    known = cache_of([77] * 12, 128)
    many = cache_of([77, 3, 120, 9, 50, 0, 11, 12, 100, 64, 2, 77], 256, seed=1)
    for stores, others in ((known.keys, many.keys), (known.values, many.values)):
        stored = others[0].numpy()
        stored[0, :, :128] = stores[0].numpy()[0]
        others[0] = paddle.to_tensor(stored)
    few = SimpleNamespace(keys=[known.keys[0][:8]], values=[known.values[0][:8]], lengths=[77] * 8)
    expected = attended(known, query)[0]
    assert np.array_equal(attended(many, query)[0], expected)
    assert np.array_equal(attended(few, query[:8])[0], expected)


def test_scores_that_are_far_apart_give_no_nan():
    cache, query = cache_of([40] * 8, 64), queries_of(8, 1e4)
    assert np.isfinite(attended(cache, query)).all()
