"""Attention in packed rows, against a reference that masks the tokens of other samples."""

from __future__ import annotations

import dataclasses

import numpy as np
import paddle
import pytest

from paddlemix.models.language.masks import alibi_bias, alibi_slopes
from paddlemix.ops.packed_attention import Runs, find_runs, packed_attention

SEGMENTS = np.array([[1] * 5 + [2] * 3 + [3] * 4, [1] * 7 + [2] + [0] * 4, [0, 0] + [1] * 6 + [0] + [2] * 3])


def normal(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def dense_attention(query, key, value, segments, window=None, slopes=None, scale=None) -> np.ndarray:
    """Return attention over the whole row in float64, with the keys of other samples hidden."""
    length, group = query.shape[2], query.shape[1] // key.shape[1]
    places = np.arange(length)
    distances = places[:, None] - places[None]
    visible = (distances >= 0) & (segments[:, :, None] == segments[:, None])
    visible &= distances < (window or length)
    scores = query.astype(np.float64) @ key.repeat(group, 1).transpose(0, 1, 3, 2) * (scale or query.shape[3] ** -0.5)
    if slopes is not None:
        scores = scores - slopes[:, None, None] * distances
    scores = np.where(visible[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out = weights / weights.sum(-1, keepdims=True) @ value.repeat(group, 1)
    return np.where(segments[:, None, :, None] == 0, 0.0, out)


@pytest.mark.parametrize("num_kv_heads", [4, 2])
@pytest.mark.parametrize("window", [None, 3])
def test_packed_attention_equals_a_mask_over_the_whole_row(window, num_kv_heads):
    query, key, value = (normal(3, heads, 12, 8, seed=heads) for heads in (4, num_kv_heads, num_kv_heads))
    runs = dataclasses.replace(find_runs(SEGMENTS), window=window)
    out = packed_attention(*map(paddle.to_tensor, (query, key, value)), runs).numpy()
    np.testing.assert_allclose(out, dense_attention(query, key, value, SEGMENTS, window), atol=1e-5)


def test_packing_keeps_alibi_and_a_custom_scale():
    query, key, value = (normal(3, 4, 12, 8, seed=seed) for seed in range(3))
    slopes = alibi_slopes(4)
    key_bias = paddle.to_tensor(alibi_bias(slopes, 12, 11))
    tensors = map(paddle.to_tensor, (query, key, value))
    out = packed_attention(*tensors, find_runs(SEGMENTS), scale=0.2, key_bias=key_bias).numpy()
    np.testing.assert_allclose(out, dense_attention(query, key, value, SEGMENTS, slopes=slopes, scale=0.2), atol=1e-5)


def test_gradients_stay_within_a_sample():
    query, key, value = (paddle.to_tensor(normal(1, 2, 12, 8, seed=seed), stop_gradient=False) for seed in range(3))
    out = packed_attention(query, key, value, find_runs(SEGMENTS[:1]))
    out[:, :, 5:8].sum().backward()  # the second sample
    for tensor in (key, value):
        touched = np.abs(tensor.grad.numpy()).sum(axis=(0, 1, 3)) > 0
        assert touched.tolist() == [False] * 5 + [True] * 3 + [False] * 4


def test_runs_are_where_the_segments_lie():
    assert find_runs(SEGMENTS).rows == (((0, 5), (5, 8), (8, 12)), ((0, 7), (7, 8)), ((2, 8), (9, 12)))
    assert find_runs(np.array([[1, 2, 1]])) is None
    assert find_runs(np.array([[0, 0]])) == Runs(((),))
