"""Scaled dot-product attention with grouped heads."""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F

BLOCK = 256  # query rows at a time: bounds the score matrix, and skips the keys after the block when causal
MASKED = -1e9  # finite in fp32, so that a row in which everything is masked stays finite


def attention(query, key, value, *, is_causal: bool = False, bias=None):
    """Attend.

    query [B, heads, T, D]; key, value [B, kv_heads, S, D], heads a multiple of kv_heads (head h reads kv head
    h // (heads // kv_heads)); bias additive [B or 1, 1, T, S] or None. is_causal lets query i see the keys
    0 .. i + S - T. Returns [B, heads, T, D].
    """
    query = query * (1.0 / math.sqrt(query.shape[-1]))
    num_queries, num_keys = query.shape[2], key.shape[2]
    if num_queries <= BLOCK:
        return _attend(query, key, value, _join(bias, causal_bias(num_queries, num_keys) if is_causal else None))
    blocks = []
    for start in range(0, num_queries, BLOCK):
        end = min(start + BLOCK, num_queries)
        last = end + num_keys - num_queries if is_causal else num_keys
        mask = causal_bias(end - start, last) if is_causal else None
        part = None if bias is None else bias[:, :, start:end, :last]
        blocks.append(_attend(query[:, :, start:end], key[:, :, :last], value[:, :, :last], _join(part, mask)))
    return paddle.concat(blocks, axis=2)


def causal_bias(num_queries: int, num_keys: int):
    """Return [1, 1, T, S] float32 with MASKED where key j > i + S - T, or None for a single query."""
    if num_queries == 1:
        return None
    full = paddle.full([num_queries, num_keys], MASKED, dtype="float32")
    return paddle.triu(full, diagonal=num_keys - num_queries + 1).reshape([1, 1, num_queries, num_keys])


def segment_bias(segment_ids):
    """Return the additive float32 mask [B, 1, T, T] of: causal AND same segment. segment_ids: integers [B, T]."""
    length = segment_ids.shape[1]
    same = segment_ids.unsqueeze(1) == segment_ids.unsqueeze(2)
    bias = (1.0 - same.astype("float32")).unsqueeze(1) * MASKED
    return _join(bias, causal_bias(length, length))


def _join(first, second):
    if first is None or second is None:
        return second if first is None else first
    return paddle.maximum(first + second, paddle.full([1], MASKED, dtype="float32"))


def _attend(query, key, value, bias):
    """Do the arithmetic of one block; queries of a group share their kv head as extra rows."""
    batch, num_heads, num_queries, dim = query.shape
    num_kv_heads, num_keys = key.shape[1], key.shape[2]
    group = num_heads // num_kv_heads
    if group > 1:
        query = query.reshape([batch, num_kv_heads, group * num_queries, dim])
    scores = paddle.matmul(query, key, transpose_y=True)
    if bias is not None:
        bias = bias.astype(scores.dtype)
        if group > 1:
            scores = scores.reshape([batch, num_kv_heads, group, num_queries, num_keys]) + bias.unsqueeze(2)
            scores = scores.reshape([batch, num_kv_heads, group * num_queries, num_keys])
        else:
            scores = scores + bias
    weights = F.softmax(scores, axis=-1, dtype="float32").astype(value.dtype)
    return paddle.matmul(weights, value).reshape([batch, num_heads, num_queries, dim])
