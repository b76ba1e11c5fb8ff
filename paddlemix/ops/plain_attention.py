"""Attention by matrix products and a softmax, and the additive masks for it. Runs on every device."""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F

from .kernel_checks import is_trained
from .tiled_attention import MASKED, has_tiles, tiled_attention, whole_rows

MAX_SHARED_QUERIES = 512  # up to this many queries, all layers share one causal mask
BLOCK = 256  # queries computed at a time: bounds the score matrix, and a causal block skips the keys after it


def plain_attention(query, key, value, *, is_causal: bool = False, bias=None, scale=None, key_bias=None, block=BLOCK):
    """Return the attention of queries to keys and values. Arguments and result as in `attention`, with additive bias.

    block: queries to compute at a time, if not in tiles.
    """
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    biases = [each for each in (bias, key_bias) if each is not None]
    if has_tiles(query, key, value, *biases) and (query.shape[2] <= key.shape[2] or not is_causal):
        spans = whole_rows(query, key)
        return tiled_attention(query, key, value, spans, is_causal=is_causal, scale=scale, biases=biases)
    query = query if scale == 1.0 else query * scale
    if key_bias is not None and _can_fold(query, key):
        query, key, key_bias = *_fold(query, key, key_bias), None
    num_queries, num_keys = query.shape[2], key.shape[2]
    if num_queries <= block or (bias is not None and num_queries <= MAX_SHARED_QUERIES):
        mask = causal_bias(num_queries, num_keys) if is_causal else None
        return attend_block(query, key, value, join_biases(bias, mask), key_bias)
    blocks, sizes = [], {block, (num_queries - 1) % block + 1}
    diagonals = {size: causal_bias(size, size) for size in sizes} if is_causal and bias is None else {}
    for start in range(0, num_queries, block):
        end = min(start + block, num_queries)
        last = end + num_keys - num_queries if is_causal else num_keys
        part = None if bias is None else bias[:, :, start:end, :last]
        if is_causal:
            is_plain = bias is None and key_bias is None
            part = diagonals[end - start] if is_plain else join_biases(part, causal_bias(end - start, last))
        added = None if key_bias is None else key_bias[..., :last]
        blocks.append(attend_block(query[:, :, start:end], key[:, :, :last], value[:, :, :last], part, added))
    return paddle.concat(blocks, axis=2)


def causal_bias(num_queries: int, num_keys: int):
    """Return [1, 1, T, S] float32 with MASKED where key j > i + S - T, or None for a single query."""
    if num_queries == 1:
        return None
    full = paddle.full([num_queries, num_keys], MASKED, dtype="float32")
    return paddle.triu(full, diagonal=num_keys - num_queries + 1).reshape([1, 1, num_queries, num_keys])


def window_bias(num_queries: int, num_keys: int, window: int):
    """Return [1, 1, T, S] float32 with MASKED where key j > i + S - T, or j <= i + S - T - window."""
    full = paddle.full([num_queries, num_keys], MASKED, dtype="float32")
    offset = num_keys - num_queries
    bias = paddle.triu(full, diagonal=offset + 1) + paddle.tril(full, diagonal=offset - window)
    return bias.reshape([1, 1, num_queries, num_keys])


def segment_bias(segment_ids):
    """Return the additive float32 mask [B, 1, T, T] for causal attention in each segment. segment_ids: ints [B, T]."""
    length = segment_ids.shape[1]
    is_same = segment_ids.unsqueeze(1) == segment_ids.unsqueeze(2)
    bias = (1.0 - is_same.astype("float32")).unsqueeze(1) * MASKED
    return join_biases(bias, causal_bias(length, length))


def join_biases(first, second):
    """Return a mask that hides what either hides; None hides nothing."""
    if first is None or second is None:
        return second if first is None else first
    return paddle.maximum(first + second, paddle.full([1], MASKED, dtype="float32"))


def attend_block(query, key, value, bias, key_bias=None):
    """Return the attention of one block of queries, which are already scaled.

    Shapes as in `attention`. The queries that share a kv head become more rows of its query matrix. A mask with fewer
    columns than there are keys applies to the last keys; all queries see the keys before them.
    """
    batch, num_heads, num_queries, _ = query.shape
    num_kv_heads, num_keys = key.shape[1], key.shape[2]
    group = num_heads // num_kv_heads
    if group > 1:
        query = query.reshape([batch, num_kv_heads, group * num_queries, query.shape[-1]])
    shape = [batch, num_heads, num_queries]
    num_free = 0 if bias is None else num_keys - bias.shape[-1]
    if num_free and key_bias is None:
        free = paddle.matmul(query, key[:, :, :num_free], transpose_y=True)
        others = paddle.matmul(query, key[:, :, num_free:], transpose_y=True)
        scores = paddle.concat([free, _add_mask(others, bias, [*shape, num_keys - num_free])], axis=-1)
    else:
        scores = paddle.matmul(query, key, transpose_y=True)
        if key_bias is not None:
            scores = (scores.astype("float32").reshape([*shape, num_keys]) + key_bias).reshape(scores.shape)
        if bias is not None:
            scores = _add_mask(scores, bias, [*shape, num_keys])
    weights = _softmax(scores, value.dtype)
    return paddle.matmul(weights, value).reshape([batch, num_heads, num_queries, value.shape[-1]])


def _can_fold(query, key) -> bool:
    """Return whether the product of queries and keys can add a key_bias: in float32, with one query head a kv head."""
    is_cpu_float = query.dtype == paddle.float32 and query.place.is_cpu_place()
    return is_cpu_float and query.shape[2] > 1 and query.shape[1] == key.shape[1]


def _fold(query, key, key_bias):
    """Return queries with a further column of ones, and keys with key_bias as a further column.

    On a CPU the wider product costs almost nothing, but adding a tensor that has to be broadcast costs more than the
    rest of the attention.
    """
    columns = key_bias.transpose([0, 1, 3, 2]).expand([*key.shape[:3], 1])
    ones = paddle.ones([*query.shape[:3], 1], dtype=query.dtype)
    return paddle.concat([query, ones], -1), paddle.concat([key, columns], -1)


def _add_mask(scores, bias, full_shape: list[int]):
    """Return scores with a mask [B or 1, heads or 1, T, S] added, in the shape of the scores.

    full_shape: [B, heads, T, S]. On a CPU, broadcasting over several axes takes ten times as long as adding equal
    shapes, and new memory costs more than the sum: the sum is in place where no gradient needs the scores.
    """
    shape = scores.shape
    bias = bias if bias.dtype == scores.dtype else bias.astype(scores.dtype)
    if not scores.place.is_cpu_place():
        return (scores.reshape(full_shape) + bias).reshape(shape)
    if math.prod(bias.shape) == math.prod(shape):
        bias = bias.reshape(shape)
    elif bias.shape[:2] == [1, 1]:
        scores, bias = scores.reshape([full_shape[0] * full_shape[1], -1]), bias.flatten()
    else:
        scores, bias = scores.reshape(full_shape), bias.expand(full_shape)
    return (scores + bias if is_trained(scores, bias) else scores.add_(bias)).reshape(shape)


def _softmax(scores, dtype):
    """Return the softmax over the last axis, computed in float32."""
    if scores.dtype != paddle.float32:
        weights = F.softmax(scores.astype("float32"), axis=-1)
    else:
        weights = F.softmax(scores, axis=-1) if is_trained(scores) else F.softmax_(scores, axis=-1)
    return weights if weights.dtype == dtype else weights.astype(dtype)
