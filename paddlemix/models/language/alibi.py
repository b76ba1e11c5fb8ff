"""Positions as a penalty on distance (ALiBi, Press et al. 2022), as MosaicML's MPT has them."""

from __future__ import annotations

import math

import numpy as np

MAX_BIAS = 8  # the steepest slopes are 2 ** -(MAX_BIAS / heads) and so on


def alibi_slopes(num_heads: int) -> np.ndarray:
    """Return by how much a score falls a position, float32 [num_heads].

    Where the number of heads is no power of two, those of the next one are taken: the second, fourth ... and then the
    first, third ... (MosaicML llm-foundry, attention.py: gen_slopes).
    """
    num_all = 2 ** math.ceil(math.log2(num_heads))
    slopes = 2.0 ** -(np.arange(1, num_all + 1) * MAX_BIAS / num_all)
    if num_all != num_heads:
        slopes = np.concatenate([slopes[1::2], slopes[::2]])[:num_heads]
    return slopes.astype(np.float32)


def alibi_bias(slopes: np.ndarray, num_keys: int, last: int) -> np.ndarray:
    """Return what is added to the scores of each key, float32 [1, heads, 1, num_keys].

    ALiBi subtracts slope * (query - key). What depends on the query alone makes no difference to a softmax, so that one
    row serves all queries: the distances are those from the key at `last`, the last query, where the values are small.
    """
    distances = np.arange(num_keys, dtype=np.float32) - last
    return (slopes[:, None] * distances).reshape([1, len(slopes), 1, num_keys])
