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
from ..parallel.cards import Cards, copied, gathered
from ..parallel.cuts import config_of_card
from ..parallel.leader import Leader, LedCache
from ..parallel.vocabulary import CutEmbedding
from .decoder_layer import DecoderLayer, build_norm
from .masks import key_bias, whole_masks
from .positions import RotaryPositions


class LanguageModel(nn.Layer):
    """Embeddings [B, T, hidden_size] to hidden states; `logits` applies the head.

    config: that of this card's part, see `config_of_card`. cards: those that share the decoder, None for one card.
    leader: set by `lead`.
    enable_recompute: set by paddlenlp's Trainer; the backward pass then computes the layers again.
    """

    def __init__(self, config: LanguageConfig, cards: Cards | None = None):
        super().__init__()
        self.cards = cards
        self.leader: Leader | None = None
        self.config = config = config if cards is None else config_of_card(config, cards.degree)
        self.enable_recompute = False
        self.rotary = RotaryPositions(config)
        start, stop = (0, config.vocab_size) if cards is None else cards.bounds(config.vocab_size)
        sizes = config.vocab_size, config.hidden_size
        self.embed_tokens = embedding(*sizes) if cards is None else CutEmbedding(*sizes, cards)
        self.layers = nn.LayerList([DecoderLayer(config, cards) for _ in range(config.num_hidden_layers)])
        self.norm = build_norm(config)
        if not config.tie_word_embeddings:
            self.lm_head = linear(config.hidden_size, stop - start, has_bias=False)

    def forward(self, embeds, position_ids, *, bias=None):
        """Return the hidden states of whole sequences: embeds [B, T, H], position_ids int64 [B, T].

        bias: as in `attention`; `packed_attention.Runs`, the bounds of the samples, for packed rows; None if a causal
        mask is enough.
        """
        hidden = scaled(embeds, self.config.embedding_scale)
        scales = self.rotary.scales(position_ids, hidden.shape[1])
        masks = whole_masks(self.config, bias, hidden)
        distance_bias = self.distance_bias(hidden.shape[1], hidden.shape[1] - 1)
        ropes = self.rotary.layer_tables(position_ids, hidden.dtype, scales)
        if self.training and hidden.stop_gradient:
            hidden.stop_gradient = False  # recompute passes gradients on only if its input needs one
        for layer, mask in zip(self.layers, masks, strict=True):
            if self.enable_recompute and self.training:
                hidden = recompute(partial(layer, ropes=ropes, bias=mask, key_bias=distance_bias), hidden)
            else:
                hidden = layer(hidden, ropes, mask, distance_bias)
        return self.norm(hidden)

    def distance_bias(self, num_keys: int, last):
        """Return `key_bias` for this card's heads."""
        return key_bias(self.config, num_keys, last, self.cards)

    def logits(self, hidden):
        """Return [..., vocab_size]; without a gradient if several cards share the decoder."""
        part = self.part_logits(hidden)
        return part if self.cards is None else gathered(part, self.cards, self.config.vocab_size, part.ndim - 1)

    def part_logits(self, hidden):
        """Return the logits of this card's part of the vocabulary."""
        hidden = copied(hidden, self.cards)
        if self.config.tie_word_embeddings:
            return paddle.matmul(hidden, self.embed_tokens.weight, transpose_y=True)
        return self.lm_head(hidden)

    def new_cache(self, num_slots: int, capacity: int) -> KVCache:
        config = self.config
        dtype = str(self.norm.weight.dtype).split(".")[-1]
        sizes = (config.num_hidden_layers, num_slots, config.num_key_value_heads, config.head_dim, capacity)
        return KVCache(*sizes, dtype) if self.leader is None else LedCache(self.leader, sizes, dtype)

    def lead(self) -> Leader:
        """Let this card generate alone, with the others as followers, and return how to end that. See `leader`."""
        self.leader = self.embed_tokens.leader = Leader(self.cards)
        return self.leader


def scaled(x, factor: float):
    """Return x * factor, the factor rounded to x's dtype: Gemma was trained with 55.5 in bfloat16, not 55.43."""
    return x if factor == 1.0 else x * paddle.full([1], factor, dtype=x.dtype)
