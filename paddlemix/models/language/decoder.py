"""The decoder of LLaMA (Touvron et al. 2023): RMSNorm, rotary positions, grouped heads, SwiGLU.

What other families need are options of LanguageConfig: biases, scaled rotary frequencies, rotary in pairs, a sliding
window, ALiBi, LayerNorm, GELU, layers without a gate, scaled embeddings.
"""

from __future__ import annotations

from functools import partial

import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute

from ..config import LanguageConfig
from ..kv_cache import KVCache
from ..layers import embedding, linear
from .decoder_layer import DecoderLayer, build_norm
from .masks import cached_masks, key_bias, whole_masks
from .positions import RotaryPositions


class LanguageModel(nn.Layer):
    """Embeddings [B, T, hidden_size] to hidden states; `logits` applies the head.

    enable_recompute: set by paddlenlp's Trainer; the backward pass then computes the layers again.
    reader: None, or a faster replacement of `layers` for inference only, see `models.cpu.reader`.
    """

    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.config = config
        self.enable_recompute = False
        self.reader = None
        self.rotary = RotaryPositions(config)
        self.embed_tokens = embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.LayerList([DecoderLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = build_norm(config)
        if not config.tie_word_embeddings:
            self.lm_head = linear(config.hidden_size, config.vocab_size, has_bias=False)

    def forward(self, embeds, position_ids, *, bias=None):
        """Return the hidden states of whole sequences: embeds [B, T, H], position_ids int64 [B, T].

        bias: as in `attention`; `packed_attention.Runs`, the bounds of the samples, for packed rows; None if a causal
        mask is enough.
        """
        hidden = scaled(embeds, self.config.embedding_scale)
        scales = self.rotary.scales(position_ids, hidden.shape[1])
        masks = whole_masks(self.config, bias, hidden)
        distance_bias = key_bias(self.config, hidden.shape[1], hidden.shape[1] - 1)
        if self.reader is not None:
            return self.norm(self.reader.read(hidden, position_ids, scales, masks, distance_bias))
        ropes = self.rotary.layer_tables(position_ids, hidden.dtype, scales)
        if self.training and hidden.stop_gradient:
            hidden.stop_gradient = False  # recompute passes gradients on only if its input needs one
        for layer, mask in zip(self.layers, masks, strict=True):
            if self.enable_recompute and self.training:
                hidden = recompute(partial(layer, ropes=ropes, bias=mask, key_bias=distance_bias), hidden)
            else:
                hidden = layer(hidden, ropes, mask, distance_bias)
        return self.norm(hidden)

    def forward_cached(self, embeds, position_ids, cache: KVCache, *, is_key_visible=None):
        """Return the hidden states of the next T positions of every row, and append them to the cache.

        The cache must have room for them. is_key_visible: bool [B, capacity] for rows with padding, or None.
        """
        hidden = scaled(embeds, self.config.embedding_scale)
        if self.reader is not None:
            hidden = self.reader.read_cached(hidden, position_ids, cache, is_key_visible)
        else:
            hidden = self._read_cached(hidden, position_ids, cache, is_key_visible)
        cache.length += embeds.shape[1]
        return self.norm(hidden)

    def _read_cached(self, hidden, position_ids, cache: KVCache, is_key_visible):
        masks = cached_masks(self.config, cache, hidden, is_key_visible)
        distance_bias = key_bias(self.config, cache.capacity, cache.length + hidden.shape[1] - 1)
        ropes = self.rotary.layer_tables(position_ids, hidden.dtype, self.rotary.scales_of(cache.is_long))
        rows = cache.rows(hidden.shape[1])
        for number, layer in enumerate(self.layers):
            hidden = layer.forward_cached(hidden, ropes, masks[number], distance_bias, cache, number, rows)
        return hidden

    def logits(self, hidden):
        """Return [..., vocab_size]."""
        if self.reader is not None and hidden.shape[:-1] == [1]:
            return self.reader.row_logits(self, hidden)
        if self.config.tie_word_embeddings:
            return paddle.matmul(hidden, self.embed_tokens.weight, transpose_y=True)
        return self.lm_head(hidden)

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        config = self.config
        dtype = str(self.norm.weight.dtype).split(".")[-1]
        return KVCache(config.num_hidden_layers, batch, config.num_key_value_heads, config.head_dim, capacity, dtype)


def scaled(x, factor: float):
    """Return x * factor, the factor rounded to x's dtype: Gemma was trained with 55.5 in bfloat16, not 55.43."""
    return x if factor == 1.0 else x * paddle.full([1], factor, dtype=x.dtype)
