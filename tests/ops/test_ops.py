"""Kernels against transformers' modules and plain NumPy."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import reference_models as tiny
import torch
from transformers.activations import ACT2FN
from transformers.models.ernie4_5 import modeling_ernie4_5
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from paddlemix.models.language.positions import alibi_bias, alibi_slopes
from paddlemix.ops.activation import activate, gated
from paddlemix.ops.attention import BLOCK, MASKED, WHOLE, attention, prepared_bias, segment_bias, window_bias
from paddlemix.ops.rms_norm import rms_norm
from paddlemix.ops.rope import apply_rope, rope_tables, rotate_half, rotate_pairs
from paddlemix.ops.swiglu import swiglu


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


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


ROTARY = {
    "halves": (LlamaRotaryEmbedding, apply_rotary_pos_emb),
    "pairs": (modeling_ernie4_5.Ernie4_5RotaryEmbedding, modeling_ernie4_5.apply_rotary_pos_emb),
}
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


@pytest.mark.parametrize("order", ROTARY)
@pytest.mark.parametrize("theta", [10000.0, 500.0])
def test_rotary_embedding_equals_transformers(theta, order):
    config = tiny.text_config(rope_theta=theta)
    positions = np.array([[0, 1, 2, 3, 4], [7, 8, 0, 1, 400]])
    query, key = normal(2, 6, 5, 8), normal(2, 2, 5, 8, seed=1)
    embedding, apply = ROTARY[order]
    tables = embedding(config)(torch.tensor(query), torch.tensor(positions))
    expected = apply(torch.tensor(query), torch.tensor(key), *tables)
    for values, theirs in zip((query, key), expected, strict=True):
        ours = rope_tables(paddle.to_tensor(positions), 8, theta, values.shape[1], "float32", order=order)
        turned = apply_rope(paddle.to_tensor(values), *ours, order).numpy()
        np.testing.assert_allclose(turned, theirs.numpy(), atol=1e-4)


def test_half_turn_equals_its_definition_by_slices():
    x = normal(2, 3, 4, 10)
    np.testing.assert_array_equal(
        rotate_half(paddle.to_tensor(x)).numpy(), np.concatenate([-x[..., 5:], x[..., :5]], -1)
    )


def test_turn_of_pairs_equals_its_definition_by_slices():
    x = normal(2, 3, 4, 10)
    expected = np.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
    np.testing.assert_array_equal(rotate_pairs(paddle.to_tensor(x)).numpy(), expected)


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


@pytest.mark.parametrize("num_heads", [1, 2, 6, 8, 12, 32, 112])
def test_alibi_equals_transformers_up_to_a_constant_of_the_query(num_heads):
    theirs = build_mpt_alibi_tensor(num_heads, 40)[:, 0].numpy()
    ours = alibi_bias(alibi_slopes(num_heads), 40, 33)[0, :, 0]
    np.testing.assert_allclose(ours - ours[:, -1:], theirs, atol=1e-5)
    assert (ours[:, 33] == 0).all()


def test_norm_whose_scale_lacks_one_equals_transformers():
    x, weight = normal(2, 5, 16), normal(16, seed=1)
    norm = GemmaRMSNorm(16, 1e-6)
    norm.weight.data = torch.tensor(weight)
    ours = rms_norm(paddle.to_tensor(x), paddle.to_tensor(weight), 1e-6, 1.0).numpy()
    np.testing.assert_allclose(ours, norm(torch.tensor(x)).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(("kind", "name"), [("silu", "silu"), ("gelu", "gelu"), ("gelu_tanh", "gelu_pytorch_tanh")])
def test_activations_equal_transformers(kind, name):
    x, up = normal(3, 7) * 3, normal(3, 7, seed=1)
    expected = ACT2FN[name](torch.tensor(x)).numpy()
    np.testing.assert_allclose(activate(paddle.to_tensor(x), kind).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(gated(paddle.to_tensor(x), paddle.to_tensor(up), kind).numpy(), expected * up, atol=1e-6)


@pytest.mark.parametrize(("num_queries", "num_keys", "window"), [(7, 7, 3), (7, 7, 1), (7, 7, 9), (1, 6, 2), (3, 8, 4)])
def test_window_hides_all_but_the_last_keys(num_queries, num_keys, window):
    queries = np.arange(num_keys - num_queries, num_keys)[:, None]
    is_seen = (np.arange(num_keys) <= queries) & (np.arange(num_keys) > queries - window)
    bias = window_bias(num_queries, num_keys, window).numpy()
    np.testing.assert_array_equal(bias, np.where(is_seen, 0.0, MASKED).astype(np.float32)[None, None])
