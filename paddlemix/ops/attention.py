"""Scaled dot-product attention with grouped heads: by the device's kernel if it has one, else by plain operations."""

from __future__ import annotations

import math

import paddle

from .flash_attention import HIDDEN, flash_attention, has_kernel
from .kernel_checks import kind_of, product_dtype
from .plain_attention import MASKED, MAX_SHARED_QUERIES, causal_bias, plain_attention
from .tiled_attention import pays
from .vector_math import is_usable

MAX_EXPANDED = 1 << 24  # elements of a mask that is repeated for every row and head


def attention(query, key, value, *, is_causal: bool = False, bias=None, scale: float | None = None, key_bias=None):
    """Return the attention of queries to keys and values, [B, heads, T, D].

    query [B, heads, T, D]; key, value [B, kv_heads, S, D], heads a multiple of kv_heads (head h reads kv head
    h // (heads // kv_heads)). bias [B or 1, heads or 1, T, S]: added to the scores, or bool with True for hidden keys.
    is_causal: query i sees the keys 0 .. i + S - T. scale: of the scores, None for 1 / sqrt(D). key_bias float32
    [1, heads, 1, S]: added to the scores of every query in float32.
    """
    is_bool = bias is not None and bias.dtype == paddle.bool
    if key_bias is None and (bias is None or is_bool) and kind_of(query) != "cpu":
        out = flash_attention(query, key, value, is_causal, bias, scale)
        if out is not None:
            return out
    bias = bias.astype("float32") * MASKED if is_bool else bias
    return plain_attention(query, key, value, is_causal=is_causal, bias=bias, scale=scale, key_bias=key_bias)


def shared_mask(bias, batch: int, length: int, num_heads: int, like=None):
    """Return the mask that all layers of a forward pass share, or None where `attention` makes a causal mask itself.

    like: a tensor on the current device, None for the CPU. A small mask is repeated for every row and head on a CPU,
    where adding tensors of equal shape is faster than broadcasting.
    """
    if bias is None:
        if not 1 < length <= MAX_SHARED_QUERIES or (like is not None and _needs_no_mask(like, num_heads)):
            return None
        bias = causal_bias(length, length)
    shape = [batch, num_heads, *bias.shape[2:]]
    if not bias.place.is_cpu_place() or math.prod(shape) > MAX_EXPANDED:
        return bias
    return bias.expand(shape).contiguous()


def _needs_no_mask(embeds, num_heads: int) -> bool:
    """Return whether attention in layers with input [B, T, H] hides the future by itself."""
    length = embeds.shape[1]
    return kind_of(embeds) != "cpu" or (pays(num_heads, length, length) and is_usable(embeds))


def kernel_mask(bias, like, head_dim: int):
    """Return a mask of 0 and MASKED as the bool mask of the device's kernel, where there is one for several queries.

    like: a tensor on the device, in the dtype of the layers' input.
    """
    if bias.shape[2] == 1 or not has_kernel(kind_of(like), product_dtype(like.dtype), head_dim, HIDDEN):
        return bias
    return bias < MASKED / 2
