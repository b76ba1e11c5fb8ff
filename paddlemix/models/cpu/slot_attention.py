"""Attention of one new position in each slot of the cache, which reads the places in use and no others.

A step of many sequences reads as many keys and values as weights. As one product for all slots it would read as many
places of each as the longest sequence has, and mask them.
"""

from __future__ import annotations

import numpy as np
import paddle

from ...ops.grouped_products import GroupedProducts
from ...ops.vector_math import FLOAT_BYTES, VectorMath, array_of
from ..kv_cache import KVCache


class SlotAttention:
    """The attention of a step in all layers with the same window, from each slot's keys up to the one just written.

    num_each: query heads of a key head. window: number of keys that a query sees, or None for all. What a slot's result
    is depends on no other slot: its sums and exponentials are computed alike in any company.
    """

    def __init__(self, mkl: VectorMath, cache: KVCache, num_each: int, window: int | None):
        num_slots, num_keys, capacity, dim = cache.keys[0].shape
        ends = np.minimum(np.asarray(cache.lengths) + 1, capacity)
        counts = ends if window is None else np.minimum(ends, window)
        heads, size = np.arange(num_slots * num_keys), num_each * dim * FLOAT_BYTES
        queries = heads * size
        keys = (heads * capacity + np.repeat(ends - counts, num_keys)) * dim * FLOAT_BYTES
        self._firsts = queries, keys, keys
        self._lengths = np.repeat(counts, num_keys * num_each)
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._scores = np.empty(self._lengths.sum(), np.float32)
        self._out = paddle.empty([num_slots, num_keys, num_each, dim])  # of each layer in turn
        self._heads = array_of(self._out).reshape(len(self._lengths), dim)
        # Addresses of the matrices, which become those of a layer, and where they are.
        scores = self._scores.ctypes.data + FLOAT_BYTES * self._starts[::num_each]
        self._arrays = (*(np.empty_like(queries) for _ in range(3)), scores, queries + self._out.data_ptr())
        self._pointers = [array.ctypes.data for array in self._arrays]
        self._score = GroupedProducts(mkl, num_keys, num_each, dim, counts, is_transposed=True)
        self._mix = GroupedProducts(mkl, num_keys, num_each, counts, dim)

    def __call__(self, query, keys, values):
        """Return the heads [slots, kv_heads, num_each, D] of scaled queries of this shape, until the next call."""
        for array, first, tensor in zip(self._arrays[:3], self._firsts, (query, keys, values), strict=True):
            np.add(first, tensor.data_ptr(), out=array)
        query_at, keys_at, values_at, scores_at, out_at = self._pointers
        self._score(query_at, keys_at, scores_at)
        scores = self._scores
        highest = np.maximum.reduceat(scores, self._starts)
        np.subtract(scores, np.repeat(highest, self._lengths), out=scores)
        # NOTE: not MKL's function, which would have to be chosen by the values of all slots, see `VectorMath.exp`.
        np.exp(scores, out=scores)
        self._mix(scores_at, values_at, out_at)
        self._heads /= np.add.reduceat(scores, self._starts)[:, None]
        return self._out
