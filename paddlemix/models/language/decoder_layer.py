"""A layer of the decoder: attention and feed-forward, each after a norm, with the options of the families."""

from __future__ import annotations

import paddle
from paddle import nn

from ...ops.activation import activate, gated
from ...ops.attention import attention
from ...ops.packed_attention import Runs, packed_attention
from ...ops.rms_norm import rms_norm
from ...ops.rope import apply_rope
from ..config import LanguageConfig
from ..kv_cache import KVCache, Places
from ..layers import linear
from ..parallel.cards import Cards, copied, summed


class DecoderLayer(nn.Layer):
    """Pre-norm attention and feed-forward. cards: those that share the layer; the config is that of a card's part."""

    def __init__(self, config: LanguageConfig, cards: Cards | None = None):
        super().__init__()
        self.cards = cards
        self.input_layernorm = build_norm(config)
        self.self_attn = DecoderAttention(config, cards)
        self.post_attention_layernorm = build_norm(config)
        self.mlp = FeedForward(config, cards)

    def forward(self, x, ropes, bias, key_bias):
        x = x + self.self_attn(copied(self.input_layernorm(x), self.cards), ropes, bias, key_bias)
        return x + self.mlp(copied(self.post_attention_layernorm(x), self.cards))

    def forward_cached(self, x, ropes, bias, key_bias, cache, number, places):
        x = x + self.self_attn.forward_cached(self.input_layernorm(x), ropes, bias, key_bias, cache, number, places)
        return x + self.mlp(self.post_attention_layernorm(x))

    def write_cached(self, x, ropes, cache, number, places) -> None:
        """Write what `forward_cached` writes to the cache, without the layer's output."""
        self.self_attn.write_cached(self.input_layernorm(x), ropes, cache, number, places)


class DecoderAttention(nn.Layer):
    """Causal attention; several query heads may share one key-value head."""

    def __init__(self, config: LanguageConfig, cards: Cards | None = None):
        super().__init__()
        self.config = config
        self.cards = cards
        width, dim = config.hidden_size, config.head_dim
        self.q_proj = linear(width, config.num_attention_heads * dim, has_bias=config.has_qkv_bias)
        self.k_proj = linear(width, config.num_key_value_heads * dim, has_bias=config.has_qkv_bias)
        self.v_proj = linear(width, config.num_key_value_heads * dim, has_bias=config.has_qkv_bias)
        self.o_proj = linear(config.num_attention_heads * dim, width, has_bias=config.has_out_bias)

    def forward(self, x, ropes, bias, key_bias):
        heads = self._project(x, ropes)
        return self._merge(attend(*heads, bias, key_bias, self.config.softmax_scale))

    def forward_cached(self, x, ropes, bias, key_bias, cache: KVCache, number: int, places: Places):
        heads = self._project(x, ropes)
        return self._merge(attend_cached(*heads, bias, key_bias, self.config.softmax_scale, cache, number, places))

    def write_cached(self, x, ropes, cache: KVCache, number: int, places: Places) -> None:
        cache.write(number, places.rows, *self._keys_values(x, ropes))

    def _project(self, x, ropes):
        query = self._heads(self.q_proj(x), self.config.num_attention_heads)
        if ropes is not None:
            query = apply_rope(query, *ropes[0], self.config.rope_order)
        return query, *self._keys_values(x, ropes)

    def _keys_values(self, x, ropes):
        key = self._heads(self.k_proj(x), self.config.num_key_value_heads)
        if ropes is not None:
            key = apply_rope(key, *ropes[1], self.config.rope_order)
        return key, self._heads(self.v_proj(x), self.config.num_key_value_heads)

    def _heads(self, x, num_heads: int):
        x = clipped(x, self.config.clip_qkv)
        return x.reshape([x.shape[0], x.shape[1], num_heads, self.config.head_dim]).transpose([0, 2, 1, 3])

    def _merge(self, x):
        batch, _, length, _ = x.shape
        merged = self.o_proj(x.transpose([0, 2, 1, 3]).reshape([batch, length, -1]))
        return summed(merged, self.cards, self.o_proj.bias)


def attend(query, key, value, bias, key_bias, scale: float | None):
    """Return the attention of whole sequences, [B, heads, T, D]: causal if bias is None, within runs if it is `Runs`.

    Arguments as in `attention`.
    """
    if isinstance(bias, Runs):
        return packed_attention(query, key, value, bias, scale=scale, key_bias=key_bias)
    return attention(query, key, value, is_causal=bias is None, bias=bias, scale=scale, key_bias=key_bias)


def attend_cached(query, key, value, bias, key_bias, scale: float | None, cache: KVCache, number: int, places: Places):
    """Write keys and values to layer `number` of the cache; return the queries' attention to what `places` says.

    bias: over the capacity, or for the first positions of a slot over these alone, or None if they are causal.
    """
    cache.write(number, places.rows, key, value)
    if bias is None or bias.shape[-1] == key.shape[2] != cache.capacity:
        key_bias = None if key_bias is None else key_bias[..., : key.shape[2]]
        return attend(query, key, value, bias, key_bias, scale)
    return attend(query, *cache.layer(number, places.slot), bias, key_bias, scale)


def clipped(x, limit: float | None):
    """Return x clipped to -limit .. limit."""
    if limit is None:
        return x
    # NOTE: `clip` has no kernel for bfloat16 on Ascend.
    return paddle.clip(x.astype("float32"), -limit, limit).astype(x.dtype)


class FeedForward(nn.Layer):
    """down(activation(gate) * up), or without a gate down(activation(up))."""

    def __init__(self, config: LanguageConfig, cards: Cards | None = None):
        super().__init__()
        self.cards = cards
        self.activation = config.activation
        self.gate_proj = None
        if config.is_gated:
            self.gate_proj = linear(config.hidden_size, config.intermediate_size, has_bias=False)
        self.up_proj = linear(config.hidden_size, config.intermediate_size, has_bias=False)
        self.down_proj = linear(config.intermediate_size, config.hidden_size, has_bias=False)

    def forward(self, x):
        if self.gate_proj is None:
            inner = activate(self.up_proj(x), self.activation)
        else:
            inner = gated(self.gate_proj(x), self.up_proj(x), self.activation)
        return summed(self.down_proj(inner), self.cards)


def build_norm(config: LanguageConfig) -> nn.Layer:
    """Return a norm of the config's kind over the hidden width."""
    if config.norm == "layer":
        return nn.LayerNorm(config.hidden_size, epsilon=config.rms_norm_eps, bias_attr=False)
    return RMSNorm(config.hidden_size, config.rms_norm_eps, config.norm_offset)


class RMSNorm(nn.Layer):
    """Norm with a learned scale: the stored weight plus `offset`."""

    def __init__(self, width: int, epsilon: float, offset: float = 0.0):
        super().__init__()
        self.epsilon = epsilon
        self.offset = offset
        self.weight = self.create_parameter([width], default_initializer=nn.initializer.Constant(1.0 - offset))

    def forward(self, x):
        return rms_norm(x, self.weight, self.epsilon, self.offset)
