"""Kernels against transformers' modules and plain NumPy."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import reference_models as tiny
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding, apply_rotary_pos_emb

from paddlemix.ops.attention import BLOCK, MASKED, WHOLE, attention, prepared_bias, segment_bias, window_bias
from paddlemix.ops.rms_norm import rms_norm
from paddlemix.ops.rope import apply_rope, rope_tables, rotate_half
from paddlemix.ops.swiglu import swiglu


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def naive_attention(query, key, value, visible) -> np.ndarray:
    """Attend in float64, one head after the other; visible: bool [B, T, S]."""
    out = np.zeros(query.shape)
    group = query.shape[1] // key.shape[1]
    for head in range(query.shape[1]):
        keys, values = key[:, head // group].astype(np.float64), value[:, head // group].astype(np.float64)
        scores = query[:, head] @ keys.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
        scores = np.where(visible, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[:, head] = weights / weights.sum(axis=-1, keepdims=True) @ values
    return out


def causal(num_queries: int, num_keys: int) -> np.ndarray:
    return np.arange(num_keys)[None] <= np.arange(num_queries)[:, None] + num_keys - num_queries


LENGTHS = [
    (1, 1),
    (5, 5),
    (1, 9),
    (4, 9),
    (BLOCK, BLOCK),
    (BLOCK + 1, BLOCK + 1),
    (BLOCK + 3, 600),
    (WHOLE + 7, WHOLE + 7),
]


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
@pytest.mark.parametrize("length", [7, BLOCK + 5, WHOLE + 9])
@pytest.mark.parametrize("is_prepared", [False, True], ids=["as-is", "prepared"])
def test_packed_and_padded_rows_see_their_own_segment_only(length, num_kv_heads, is_prepared):
    segments = np.ones((2, length), np.int64)
    segments[0, length // 3 :], segments[0, length // 2 :], segments[1, -3:] = 2, 3, 0
    query = normal(2, 4, length, 6)
    key, value = (normal(2, num_kv_heads, length, 6, seed=seed) for seed in (1, 2))
    bias = segment_bias(paddle.to_tensor(segments))
    bias = prepared_bias(bias, 2, length, 4) if is_prepared else bias
    out = attention(*map(paddle.to_tensor, (query, key, value)), bias=bias).numpy()
    visible = causal(length, length)[None] & (segments[:, :, None] == segments[:, None])
    np.testing.assert_allclose(out, naive_attention(query, key, value, visible), atol=2e-5)


@pytest.mark.parametrize("length", [1, 2, 300, WHOLE, WHOLE + 1])
def test_prepared_causal_mask_gives_what_the_plain_one_gives(length):
    query, key, value = (paddle.to_tensor(normal(1, 2, length, 6, seed=seed)) for seed in range(3))
    bias = prepared_bias(None, 1, length, 2)
    out = attention(query, key, value, is_causal=bias is None, bias=bias)
    np.testing.assert_allclose(out.numpy(), attention(query, key, value, is_causal=True).numpy(), atol=1e-5)


def test_row_in_which_everything_is_masked_stays_finite():
    query, key, value = (paddle.to_tensor(normal(1, 2, 3, 6, seed=seed)) for seed in range(3))
    out = attention(query, key, value, bias=paddle.full([1, 1, 3, 3], MASKED)).numpy()
    assert np.isfinite(out).all()


@pytest.mark.parametrize("theta", [10000.0, 500.0])
def test_rotary_embedding_equals_transformers(theta):
    config = tiny.text_config(rope_theta=theta)
    positions = np.array([[0, 1, 2, 3, 4], [7, 8, 0, 1, 400]])
    query, key = normal(2, 6, 5, 8), normal(2, 2, 5, 8, seed=1)
    tables = LlamaRotaryEmbedding(config)(torch.tensor(query), torch.tensor(positions))
    expected = apply_rotary_pos_emb(torch.tensor(query), torch.tensor(key), *tables)
    for values, theirs in zip((query, key), expected, strict=True):
        ours = rope_tables(paddle.to_tensor(positions), 8, theta, values.shape[1], "float32")
        turned = apply_rope(paddle.to_tensor(values), *ours).numpy()
        np.testing.assert_allclose(turned, theirs.numpy(), atol=1e-4)


def test_half_turn_equals_its_definition_by_slices():
    x = normal(2, 3, 4, 10)
    np.testing.assert_array_equal(
        rotate_half(paddle.to_tensor(x)).numpy(), np.concatenate([-x[..., 5:], x[..., :5]], -1)
    )


@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
def test_rms_norm_equals_transformers(epsilon):
    x, weight = normal(2, 5, 16), normal(16, seed=1)
    norm = LlamaRMSNorm(16, epsilon)
    norm.weight.data = torch.tensor(weight)
    ours = rms_norm(paddle.to_tensor(x), paddle.to_tensor(weight), epsilon).numpy()
    np.testing.assert_allclose(ours, norm(torch.tensor(x)).detach().numpy(), atol=1e-5)


def test_swiglu_equals_torch():
    gate, up = normal(3, 7), normal(3, 7, seed=1)
    expected = (torch.nn.functional.silu(torch.tensor(gate)) * torch.tensor(up)).numpy()
    np.testing.assert_allclose(swiglu(paddle.to_tensor(gate), paddle.to_tensor(up)).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("num_queries", "num_keys", "window"), [(7, 7, 3), (7, 7, 1), (7, 7, 9), (1, 6, 2), (3, 8, 4)])
def test_window_hides_all_but_the_last_keys(num_queries, num_keys, window):
    queries = np.arange(num_keys - num_queries, num_keys)[:, None]
    is_seen = (np.arange(num_keys) <= queries) & (np.arange(num_keys) > queries - window)
    bias = window_bias(num_queries, num_keys, window).numpy()
    np.testing.assert_array_equal(bias, np.where(is_seen, 0.0, MASKED).astype(np.float32)[None, None])
