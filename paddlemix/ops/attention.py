"""Scaled dot-product attention with grouped heads, by the device's kernel if it has one, else by plain operations."""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F

from .flash_attention import HIDDEN, flash_attention, has_kernel
from .gradients import is_trained
from .kernels import kind_of, product_dtype

WHOLE = 512  # up to so many queries, a causal mask is made once and shared by all layers
BLOCK = 256  # query rows at a time: bounds the score matrix, and skips the keys after the block when causal
MAX_SPREAD = 1 << 24  # elements
MASKED = -1e9  # finite in fp32, so that a row in which everything is masked stays finite


def attention(query, key, value, *, is_causal: bool = False, bias=None, scale: float | None = None, key_bias=None):
    """Attend.

    query [B, heads, T, D]; key, value [B, kv_heads, S, D], heads a multiple of kv_heads (head h reads kv head
    h // (heads // kv_heads)); bias [B or 1, heads or 1, T, S]: added to the scores, or bool where True hides, or None.
    is_causal lets query i see the keys 0 .. i + S - T. scale: of the scores, None for 1 / sqrt(D). key_bias: float32
    [1, heads, 1, S] that is added to the scores of every query in float32, or None. Returns [B, heads, T, D].
    """
    is_hiding = bias is not None and bias.dtype == paddle.bool
    if key_bias is None and (bias is None or is_hiding):
        out = flash_attention(query, key, value, is_causal, bias, scale)
        if out is not None:
            return out
    bias = bias.astype("float32") * MASKED if is_hiding else bias
    return plain_attention(query, key, value, is_causal=is_causal, bias=bias, scale=scale, key_bias=key_bias)


def plain_attention(query, key, value, *, is_causal: bool = False, bias=None, scale=None, key_bias=None, block=BLOCK):
    """Attend with matrix products and a softmax. Arguments and result as in `attention`, bias additive.

    block: how many queries to take at a time.
    """
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    query = query if scale == 1.0 else query * scale
    if key_bias is not None and _is_foldable(query, key):
        query, key, key_bias = *_folded(query, key, key_bias), None
    num_queries, num_keys = query.shape[2], key.shape[2]
    if num_queries <= block or (bias is not None and num_queries <= WHOLE):
        mask = causal_bias(num_queries, num_keys) if is_causal else None
        return attend(query, key, value, join_biases(bias, mask), key_bias)
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
        blocks.append(attend(query[:, :, start:end], key[:, :, :last], value[:, :, :last], part, added))
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
    """Return the additive float32 mask [B, 1, T, T] of: causal AND same segment. segment_ids: integers [B, T]."""
    length = segment_ids.shape[1]
    same = segment_ids.unsqueeze(1) == segment_ids.unsqueeze(2)
    bias = (1.0 - same.astype("float32")).unsqueeze(1) * MASKED
    return join_biases(bias, causal_bias(length, length))


def prepared_bias(bias, batch: int, length: int, num_heads: int, like=None):
    """Return the mask that all layers of a forward pass share, or None where `attention` masks causally by itself.

    like: a tensor on the device in use, None for the CPU. Where adding equal shapes is faster (CPU) and the mask is
    small, it is repeated for every row and head.
    """
    if bias is None:
        if not 1 < length <= WHOLE or (like is not None and kind_of(like) != "cpu"):
            return None
        bias = causal_bias(length, length)
    shape = [batch, num_heads, *bias.shape[2:]]
    if not bias.place.is_cpu_place() or math.prod(shape) > MAX_SPREAD:
        return bias
    return bias.expand(shape).contiguous()


def fitting_mask(bias, like, head_dim: int):
    """Return a mask of 0 and MASKED as the bool that the device's kernel takes, where it has one for several queries.

    like: a tensor on the device, in the dtype of the layers' input.
    """
    if bias.shape[2] == 1 or not has_kernel(kind_of(like), product_dtype(like.dtype), head_dim, HIDDEN):
        return bias
    return bias < MASKED / 2


def join_biases(first, second):
    """Return the mask of what either hides; None hides nothing."""
    if first is None or second is None:
        return second if first is None else first
    return paddle.maximum(first + second, paddle.full([1], MASKED, dtype="float32"))


def _is_foldable(query, key) -> bool:
    """Tell if the product of queries and keys can add a key_bias: not in 16 bits, and not for a key head of several."""
    is_cpu_float = query.dtype == paddle.float32 and query.place.is_cpu_place()
    return is_cpu_float and query.shape[2] > 1 and query.shape[1] == key.shape[1]


def _folded(query, key, key_bias):
    """Return queries and keys with a further column each, 1 and key_bias.

    On CPU the wider product costs next to nothing, adding something that has to be broadcast more than all else.
    """
    columns = key_bias.transpose([0, 1, 3, 2]).expand([*key.shape[:3], 1])
    ones = paddle.ones([*query.shape[:3], 1], dtype=query.dtype)
    return paddle.concat([query, ones], -1), paddle.concat([key, columns], -1)


def attend(query, key, value, bias, key_bias=None):
    """Do the arithmetic of one block, of queries that are scaled already.

    Shapes as in `attention`; queries of a group share their kv head as extra rows. A mask with fewer columns than there
    are keys is that of the last keys, and all queries see those before.
    """
    batch, num_heads, num_queries, _ = query.shape
    num_kv_heads, num_keys = key.shape[1], key.shape[2]
    group = num_heads // num_kv_heads
    if group > 1:
        query = query.reshape([batch, num_kv_heads, group * num_queries, query.shape[-1]])
    rows = [batch, num_heads, num_queries]
    num_free = 0 if bias is None else num_keys - bias.shape[-1]
    if num_free and key_bias is None:
        free = paddle.matmul(query, key[:, :, :num_free], transpose_y=True)
        others = paddle.matmul(query, key[:, :, num_free:], transpose_y=True)
        scores = paddle.concat([free, _masked(others, bias, [*rows, num_keys - num_free])], axis=-1)
    else:
        scores = paddle.matmul(query, key, transpose_y=True)
        if key_bias is not None:
            scores = (scores.astype("float32").reshape([*rows, num_keys]) + key_bias).reshape(scores.shape)
        if bias is not None:
            scores = _masked(scores, bias, [*rows, num_keys])
    weights = _softmax(scores, value.dtype)
    return paddle.matmul(weights, value).reshape([batch, num_heads, num_queries, value.shape[-1]])


def _masked(scores, bias, rows: list[int]):
    """Add a mask [B or 1, heads or 1, T, S] to scores; rows: [B, heads, T, S]. The result has the shape of the scores.

    On CPU never over several axes, which takes ten times as long as over equal shapes, and in place where it can be:
    fresh memory costs more there than the sum.
    """
    shape = scores.shape
    bias = bias if bias.dtype == scores.dtype else bias.astype(scores.dtype)
    if not scores.place.is_cpu_place():
        return (scores.reshape(rows) + bias).reshape(shape)
    if math.prod(bias.shape) == math.prod(shape):
        bias = bias.reshape(shape)
    elif bias.shape[:2] == [1, 1]:
        scores, bias = scores.reshape([rows[0] * rows[1], -1]), bias.flatten()
    else:
        scores, bias = scores.reshape(rows), bias.expand(rows)
    return (scores + bias if is_trained(scores, bias) else scores.add_(bias)).reshape(shape)


def _softmax(scores, dtype):
    """Return the softmax of the last axis, computed in float32."""
    if scores.dtype != paddle.float32:
        weights = F.softmax(scores.astype("float32"), axis=-1)
    else:
        weights = F.softmax(scores, axis=-1) if is_trained(scores) else F.softmax_(scores, axis=-1)
    return weights if weights.dtype == dtype else weights.astype(dtype)
