"""Attention and its masks against plain NumPy."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from op_checks import normal

from paddlemix.ops.attention import attention, shared_mask
from paddlemix.ops.plain_attention import BLOCK, MASKED, MAX_SHARED_QUERIES, segment_bias, window_bias

LENGTHS = [
    (1, 1),
    (5, 5),
    (1, 9),
    (4, 9),
    (BLOCK, BLOCK),
    (BLOCK + 1, BLOCK + 1),
    (BLOCK + 3, 600),
    (MAX_SHARED_QUERIES + 7, MAX_SHARED_QUERIES + 7),
]


def naive_attention(query, key, value, visible, scale=None, key_bias=None) -> np.ndarray:
    """Attend in float64, one head after the other; visible: bool [B, T, S]; key_bias [heads, S]."""
    out = np.zeros(query.shape)
    group = query.shape[1] // key.shape[1]
    for head in range(query.shape[1]):
        keys, values = key[:, head // group].astype(np.float64), value[:, head // group].astype(np.float64)
        scores = query[:, head] @ keys.transpose(0, 2, 1) * (scale or 1 / np.sqrt(query.shape[-1]))
        scores = scores if key_bias is None else scores + key_bias[head]
        scores = np.where(visible, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[:, head] = weights / weights.sum(axis=-1, keepdims=True) @ values
    return out


def causal(num_queries: int, num_keys: int) -> np.ndarray:
    return np.arange(num_keys)[None] <= np.arange(num_queries)[:, None] + num_keys - num_queries


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
@pytest.mark.parametrize(("num_queries", "num_keys"), LENGTHS)
@pytest.mark.parametrize("is_causal", [True, False], ids=["causal", "all"])
def test_attention_equals_numpy(num_queries, num_keys, num_kv_heads, is_causal):
    query = normal(2, 4, num_queries, 6)
    key, value = (normal(2, num_kv_heads, num_keys, 6, seed=seed) for seed in (1, 2))
    visible = causal(num_queries, num_keys) if is_causal else np.ones((num_queries, num_keys), bool)
    out = attention(*map(paddle.to_tensor, (query, key, value)), is_causal=is_causal).numpy()
    np.testing.assert_allclose(out, naive_attention(query, key, value, visible[None]), atol=2e-5)


@pytest.mark.parametrize("num_kv_heads", [4, 2])
@pytest.mark.parametrize("length", [7, BLOCK + 5, MAX_SHARED_QUERIES + 9])
@pytest.mark.parametrize("is_prepared", [False, True], ids=["as-is", "prepared"])
def test_packed_and_padded_rows_see_their_own_segment_only(length, num_kv_heads, is_prepared):
    segments = np.ones((2, length), np.int64)
    segments[0, length // 3 :], segments[0, length // 2 :], segments[1, -3:] = 2, 3, 0
    query = normal(2, 4, length, 6)
    key, value = (normal(2, num_kv_heads, length, 6, seed=seed) for seed in (1, 2))
    bias = segment_bias(paddle.to_tensor(segments))
    bias = shared_mask(bias, 2, length, 4) if is_prepared else bias
    out = attention(*map(paddle.to_tensor, (query, key, value)), bias=bias).numpy()
    visible = causal(length, length)[None] & (segments[:, :, None] == segments[:, None])
    np.testing.assert_allclose(out, naive_attention(query, key, value, visible), atol=2e-5)


@pytest.mark.parametrize("length", [1, 2, 300, MAX_SHARED_QUERIES, MAX_SHARED_QUERIES + 1])
def test_shared_causal_mask_equals_the_plain_one(length):
    query, key, value = (paddle.to_tensor(normal(1, 2, length, 6, seed=seed)) for seed in range(3))
    bias = shared_mask(None, 1, length, 2)
    out = attention(query, key, value, is_causal=bias is None, bias=bias)
    np.testing.assert_allclose(out.numpy(), attention(query, key, value, is_causal=True).numpy(), atol=1e-5)


def test_row_in_which_everything_is_masked_stays_finite():
    query, key, value = (paddle.to_tensor(normal(1, 2, 3, 6, seed=seed)) for seed in range(3))
    out = attention(query, key, value, bias=paddle.full([1, 1, 3, 3], MASKED)).numpy()
    assert np.isfinite(out).all()


@pytest.mark.parametrize("num_kv_heads", [4, 2])
@pytest.mark.parametrize(("num_queries", "num_keys"), LENGTHS)
@pytest.mark.parametrize("has_mask", [False, True], ids=["causal", "mask"])
def test_bias_of_keys_and_scale_equal_numpy(num_queries, num_keys, num_kv_heads, has_mask):
    query = normal(2, 4, num_queries, 6)
    key, value = (normal(2, num_kv_heads, num_keys, 6, seed=seed) for seed in (1, 2))
    key_bias = normal(4, num_keys, seed=3)
    visible = causal(num_queries, num_keys)
    mask = paddle.to_tensor(np.where(visible, 0, MASKED)[None, None].astype(np.float32)) if has_mask else None
    tensors = map(paddle.to_tensor, (query, key, value))
    added = paddle.to_tensor(key_bias[None, :, None])
    out = attention(*tensors, is_causal=not has_mask, bias=mask, scale=0.7, key_bias=added).numpy()
    np.testing.assert_allclose(out, naive_attention(query, key, value, visible[None], 0.7, key_bias), atol=2e-5)


@pytest.mark.parametrize(("num_queries", "num_keys", "window"), [(7, 7, 3), (7, 7, 1), (7, 7, 9), (1, 6, 2), (3, 8, 4)])
def test_window_hides_all_but_the_last_keys(num_queries, num_keys, window):
    queries = np.arange(num_keys - num_queries, num_keys)[:, None]
    is_seen = (np.arange(num_keys) <= queries) & (np.arange(num_keys) > queries - window)
    bias = window_bias(num_queries, num_keys, window).numpy()
    np.testing.assert_array_equal(bias, np.where(is_seen, 0.0, MASKED).astype(np.float32)[None, None])
