"""The decoder of LLaMA (Touvron et al. 2023): RMSNorm, rotary positions, grouped heads, SwiGLU.

What other families add are options of LanguageConfig: biases, scaled rotary frequencies, a sliding window.
"""

from __future__ import annotations

from functools import partial

import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute

from ...ops.attention import MASKED, attention, join_biases, prepared_bias, window_bias
from ...ops.rms_norm import rms_norm
from ...ops.rope import apply_rope, rope_tables
from ...ops.swiglu import swiglu
from ..config import LanguageConfig
from ..kv_cache import KVCache
from ..layers import embedding, linear
from .rope import RopeScales


class LanguageModel(nn.Layer):
    """Embeddings [B, T, hidden_size] to hidden states; `logits` applies the head.

    enable_recompute: paddlenlp's Trainer sets it; layers are then computed again in the backward pass.
    """

    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.config = config
        self.enable_recompute = False
        self.rope_scales = RopeScales(config)
        self.embed_tokens = embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.LayerList([DecoderLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if not config.tie_word_embeddings:
            self.lm_head = linear(config.hidden_size, config.vocab_size, has_bias=False)

    def forward(self, embeds, position_ids, *, bias=None):
        """Read whole sequences: embeds [B, T, H], position_ids int64 [B, T]; bias as in `attention`, else causal."""
        ropes = self._rope(position_ids, embeds.dtype, self.rope_scales.of(position_ids, embeds.shape[1]))
        biases = self._biases(bias, *embeds.shape[:2])
        if self.training and embeds.stop_gradient:
            embeds.stop_gradient = False  # recompute passes gradients on only if its input wants one
        for layer, bias in zip(self.layers, biases, strict=True):
            if self.enable_recompute and self.training:
                embeds = recompute(partial(layer, ropes=ropes, bias=bias), embeds)
            else:
                embeds = layer(embeds, ropes, bias)
        return self.norm(embeds)

    def forward_cached(self, embeds, position_ids, cache: KVCache, *, is_key_visible=None):
        """Read the next T positions of every row and append them to the cache.

        is_key_visible: bool [B, capacity] for rows with padding, or None. The capacity must have been reserved, and
        `must_read_again` must be false.
        """
        length = embeds.shape[1]
        is_long = self.rope_scales.is_long(position_ids, cache.length + length)
        assert cache.length == 0 or cache.is_long == is_long, (cache.is_long, is_long)
        ropes = self._rope(position_ids, embeds.dtype, self.rope_scales.of_rows(is_long))
        cache.is_long = is_long
        rows = cache.rows(length)
        biases = self._cached_biases(cache, length, is_key_visible)
        for number, layer in enumerate(self.layers):
            embeds = layer.forward_cached(embeds, ropes, biases[number], cache, number, rows)
        cache.length += length
        return self.norm(embeds)

    def logits(self, hidden):
        """Return [..., vocab_size]."""
        if self.config.tie_word_embeddings:
            return paddle.matmul(hidden, self.embed_tokens.weight, transpose_y=True)
        return self.lm_head(hidden)

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        config = self.config
        dtype = str(self.norm.weight.dtype).split(".")[-1]
        return KVCache(config.num_hidden_layers, batch, config.num_key_value_heads, config.head_dim, capacity, dtype)

    def must_read_again(self, position_ids, num_new: int, cache: KVCache) -> bool:
        """Tell if the next positions [B, T] change how those before are turned, so that the cache is of no use."""
        return cache.length > 0 and cache.is_long != self.rope_scales.is_long(position_ids, cache.length + num_new)

    def _rope(self, position_ids, dtype, scales):
        """Return the tables (cos, sin) for queries and for keys."""
        config = self.config
        shape = config.head_dim, config.rope_theta, config.num_attention_heads
        queries = rope_tables(position_ids, *shape, dtype, scales, self.rope_scales.amplitude)
        if config.num_key_value_heads == config.num_attention_heads:
            return queries, queries
        return queries, tuple(table[:, : config.num_key_value_heads].contiguous() for table in queries)

    def _biases(self, bias, batch: int, length: int) -> list:
        """Return each layer's mask for whole sequences."""
        num_heads, window = self.config.num_attention_heads, self.config.sliding_window
        full = prepared_bias(bias, batch, length, num_heads)
        if window is None or length <= window:
            return self._per_layer(full, full)
        windowed = join_biases(bias, window_bias(length, length, window))
        return self._per_layer(full, prepared_bias(windowed, batch, length, num_heads))

    def _cached_biases(self, cache: KVCache, num_new: int, is_key_visible) -> list:
        """Return each layer's mask for the next positions; None where only they are read, all of them causally."""
        window = self.config.sliding_window
        is_fresh = cache.length == 0 and is_key_visible is None
        full = None if is_fresh else _cached_bias(cache, num_new, is_key_visible)
        is_whole_seen = window is None or cache.length + num_new <= window
        windowed = full if is_whole_seen else _cached_bias(cache, num_new, is_key_visible, window)
        return self._per_layer(full, windowed)

    def _per_layer(self, full, windowed) -> list:
        num_full = self.config.num_full_layers
        return [full] * num_full + [windowed] * (self.config.num_hidden_layers - num_full)


def _cached_bias(cache: KVCache, num_new: int, is_key_visible, window: int | None = None):
    """Return the additive mask [B or 1, 1, T, capacity]: key j is seen by query i if j <= length + i and visible.

    window: and j > length + i - window.
    """
    keys = paddle.arange(cache.capacity, dtype="int64").reshape([1, 1, 1, -1])
    queries = paddle.arange(cache.length, cache.length + num_new, dtype="int64").reshape([1, 1, -1, 1])
    is_hidden = (keys > queries).astype("float32")
    if window is not None:
        is_hidden = is_hidden + (keys <= queries - window).astype("float32")
    if is_key_visible is not None:
        is_hidden = paddle.maximum(is_hidden, 1.0 - is_key_visible.astype("float32").unsqueeze(1).unsqueeze(1))
    return is_hidden * MASKED


class DecoderLayer(nn.Layer):
    """Pre-norm attention and gated feed-forward."""

    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = DecoderAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x, ropes, bias):
        x = x + self.self_attn(self.input_layernorm(x), ropes, bias)
        return x + self.mlp(self.post_attention_layernorm(x))

    def forward_cached(self, x, ropes, bias, cache, number, rows):
        x = x + self.self_attn.forward_cached(self.input_layernorm(x), ropes, bias, cache, number, rows)
        return x + self.mlp(self.post_attention_layernorm(x))


class DecoderAttention(nn.Layer):
    """Causal attention with rotary positions; several query heads may share one key-value head."""

    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.config = config
        width, dim = config.hidden_size, config.head_dim
        self.q_proj = linear(width, config.num_attention_heads * dim, has_bias=config.has_qkv_bias)
        self.k_proj = linear(width, config.num_key_value_heads * dim, has_bias=config.has_qkv_bias)
        self.v_proj = linear(width, config.num_key_value_heads * dim, has_bias=config.has_qkv_bias)
        self.o_proj = linear(config.num_attention_heads * dim, width, has_bias=config.has_out_bias)

    def forward(self, x, ropes, bias):
        query, key, value = self._project(x, ropes)
        return self._merge(attention(query, key, value, is_causal=bias is None, bias=bias))

    def forward_cached(self, x, ropes, bias, cache: KVCache, number: int, rows):
        query, key, value = self._project(x, ropes)
        cache.write(number, rows, key, value)
        if bias is None:
            return self._merge(attention(query, key, value, is_causal=True))
        return self._merge(attention(query, cache.keys[number], cache.values[number], bias=bias))

    def _project(self, x, ropes):
        query = apply_rope(self._heads(self.q_proj(x), self.config.num_attention_heads), *ropes[0])
        key = apply_rope(self._heads(self.k_proj(x), self.config.num_key_value_heads), *ropes[1])
        return query, key, self._heads(self.v_proj(x), self.config.num_key_value_heads)

    def _heads(self, x, num_heads: int):
        return x.reshape([x.shape[0], x.shape[1], num_heads, self.config.head_dim]).transpose([0, 2, 1, 3])

    def _merge(self, x):
        batch, _, length, _ = x.shape
        return self.o_proj(x.transpose([0, 2, 1, 3]).reshape([batch, length, -1]))


class FeedForward(nn.Layer):
    """down(silu(gate) * up)."""

    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.gate_proj = linear(config.hidden_size, config.intermediate_size, has_bias=False)
        self.up_proj = linear(config.hidden_size, config.intermediate_size, has_bias=False)
        self.down_proj = linear(config.intermediate_size, config.hidden_size, has_bias=False)

    def forward(self, x):
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class RMSNorm(nn.Layer):
    """Norm with a learned scale."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.epsilon = epsilon
        self.weight = self.create_parameter([width], default_initializer=nn.initializer.Constant(1.0))

    def forward(self, x):
        return rms_norm(x, self.weight, self.epsilon)
