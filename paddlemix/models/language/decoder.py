"""The decoder of LLaMA (Touvron et al. 2023): RMSNorm, rotary positions, grouped heads, SwiGLU.

What other families have are options of LanguageConfig: biases, scaled rotary frequencies, rotary in pairs, a sliding
window, ALiBi, LayerNorm, GELU, layers without a gate, scaled embeddings.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute

from ...device import num_threads
from ...ops.attention import MASKED, fitting_mask, join_biases, prepared_bias, window_bias
from ...ops.packed_attention import Runs
from ...ops.rope import rope_tables, turning
from ..config import LanguageConfig
from ..cpu.blockwise import Row, block_ends, read_blockwise, read_rows
from ..cpu.row_product import num_blocks, row_product, transposed_row_product
from ..cpu.threads import num_workers
from ..kv_cache import KVCache
from ..layers import embedding, linear, scaled
from .decoder_layer import DecoderLayer, build_norm
from .positions import RopeScales, alibi_bias, alibi_slopes


class LanguageModel(nn.Layer):
    """Embeddings [B, T, hidden_size] to hidden states; `logits` applies the head.

    enable_recompute: paddlenlp's Trainer sets it; layers are then computed again in the backward pass.
    """

    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.config = config
        self.enable_recompute = False
        self.is_fused = False  # see `models.cpu.fused_layer`
        self.rope_scales = RopeScales(config)
        self.slopes = alibi_slopes(config.num_attention_heads) if config.positions == "alibi" else None
        self.embed_tokens = embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.LayerList([DecoderLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = build_norm(config)
        if not config.tie_word_embeddings:
            self.lm_head = linear(config.hidden_size, config.vocab_size, has_bias=False)

    def forward(self, embeds, position_ids, *, bias=None):
        """Read whole sequences: embeds [B, T, H], position_ids int64 [B, T].

        bias: as in `attention`, or `Runs` where a row holds several samples; None where a causal mask is enough.
        """
        embeds = scaled(embeds, self.config.embedding_scale)
        ropes = self._rope(position_ids, embeds.dtype, self.rope_scales.of(position_ids, embeds.shape[1]))
        biases = self._biases(bias, embeds)
        key_bias = self._key_bias(embeds.shape[1], embeds.shape[1] - 1)
        if self.training and embeds.stop_gradient:
            embeds.stop_gradient = False  # recompute passes gradients on only if its input wants one
        for layer, bias in zip(self.layers, biases, strict=True):
            if self.enable_recompute and self.training:
                embeds = recompute(partial(layer, ropes=ropes, bias=bias, key_bias=key_bias), embeds)
            else:
                embeds = layer(embeds, ropes, bias, key_bias)
        return self.norm(embeds)

    def forward_cached(self, embeds, position_ids, cache: KVCache, *, is_key_visible=None):
        """Read the next T positions of every row and append them to the cache.

        is_key_visible: bool [B, capacity] for rows with padding, or None. The capacity must have been reserved, and
        `must_read_again` must be false.
        """
        length = embeds.shape[1]
        is_long = self.rope_scales.is_long(position_ids, cache.length + length)
        assert cache.length == 0 or cache.is_long == is_long, (cache.is_long, is_long)
        embeds = scaled(embeds, self.config.embedding_scale)
        cache.is_long = is_long
        rows = cache.rows(length)
        hidden = None
        if self.is_fused and self.layers[0].is_quick and self.slopes is None:
            hidden = self._read_quickly(embeds, position_ids, cache, rows, is_key_visible)
        if hidden is None:
            hidden = self._read_plainly(embeds, position_ids, cache, rows, is_key_visible)
        cache.length += length
        return self.norm(hidden)

    def _read_plainly(self, embeds, position_ids, cache: KVCache, rows, is_key_visible):
        """Return the last layer's output for the next positions, with all of them at once in each layer."""
        biases = self._cached_biases(cache, embeds, is_key_visible)
        ropes = self._rope(position_ids, embeds.dtype, self.rope_scales.of_rows(cache.is_long))
        key_bias = self._key_bias(cache.capacity, cache.length + embeds.shape[1] - 1)
        for number, layer in enumerate(self.layers):
            embeds = layer.forward_cached(embeds, ropes, biases[number], key_bias, cache, number, rows)
        return embeds

    def _read_quickly(self, embeds, position_ids, cache: KVCache, rows, is_key_visible):
        """Return the same in one of the ways that are faster on a CPU, or None where none of them fits."""
        batch, length, _ = embeds.shape
        if length == 1 and cache.length:
            return self._step(embeds, position_ids, cache, rows, is_key_visible)
        if not self._is_all_seen(cache.length + length):
            return None
        if is_key_visible is None and len(ends := block_ends(length)) > 1:
            scales = self.rope_scales.of_rows(cache.is_long)
            turns = [self._rope(position_ids[:, start:end], embeds.dtype, scales) for start, end in ends]
            return read_blockwise(self.layers, embeds, ends, turns, cache, rows)
        if 1 < num_workers() <= batch:
            rotate = partial(self._rotation_of, cache.is_long, embeds.dtype)
            return read_rows(self.layers, _batch(embeds, position_ids, cache, is_key_visible), rotate, cache, rows)
        return None

    def _rotation_of(self, is_long: tuple[bool, ...], dtype, part: list[Row]):
        """Return what turns the queries and keys of rows behind each other."""
        scales = self.rope_scales.of_rows(())
        if is_long:
            own = [self.rope_scales.of_rows(is_long[row.number : row.number + 1]) for row in part]
            scales = np.concatenate([np.tile(each, [row.length, 1]) for each, row in zip(own, part, strict=True)])[None]
        return self._rope(paddle.concat([row.position_ids for row in part], axis=1), dtype, scales)

    def _step(self, embeds, position_ids, cache: KVCache, rows, is_key_visible):
        """Read one token a row, [B, 1, H]."""
        biases = self._cached_biases(cache, embeds, is_key_visible)
        turn = self._rope(position_ids, embeds.dtype, self.rope_scales.of_rows(cache.is_long))
        num_keys = self.config.num_key_value_heads
        shape = [embeds.shape[0], num_keys, self.config.num_attention_heads // num_keys, cache.capacity]
        spread = {bias: bias.expand(shape).contiguous() for bias in set(biases)}  # adding equal shapes is fastest
        embeds = embeds.squeeze(1)
        for number, (layer, bias) in enumerate(zip(self.layers, biases, strict=True)):
            embeds = layer.step(embeds, turn, spread[bias], cache, number, rows)
        return embeds.unsqueeze(1)

    def logits(self, hidden):
        """Return [..., vocab_size]."""
        is_row = hidden.shape[:-1] == [1] and not paddle.is_grad_enabled()
        if self.config.tie_word_embeddings:
            weight = self.embed_tokens.weight
            if is_row:
                return transposed_row_product(hidden, weight, num_blocks(weight, num_threads()))
            return paddle.matmul(hidden, weight, transpose_y=True)
        if is_row and type(self.lm_head) is nn.Linear:
            return row_product(hidden, self.lm_head.weight, num_blocks(self.lm_head.weight, num_threads()))
        return self.lm_head(hidden)

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        config = self.config
        dtype = str(self.norm.weight.dtype).split(".")[-1]
        return KVCache(config.num_hidden_layers, batch, config.num_key_value_heads, config.head_dim, capacity, dtype)

    def must_read_again(self, position_ids, num_new: int, cache: KVCache) -> bool:
        """Tell if the next positions [B, T] change how those before are turned, so that the cache is of no use."""
        return cache.length > 0 and cache.is_long != self.rope_scales.is_long(position_ids, cache.length + num_new)

    def _key_bias(self, num_keys: int, last: int):
        """Return what ALiBi adds for each key, None without it. Of all rows and segments only distances count."""
        return None if self.slopes is None else paddle.to_tensor(alibi_bias(self.slopes, num_keys, last))

    def _rope(self, position_ids, dtype, scales):
        """Return the tables (cos, sin) for queries and for keys, or what turns both at once where layers are fused.

        None without rotary positions.
        """
        config = self.config
        if config.positions != "rotary":
            return None
        num_queries, num_keys = config.num_attention_heads, config.num_key_value_heads
        shape, stretch = (config.head_dim, config.rope_theta), (scales, self.rope_scales.amplitude, config.rope_order)
        if self.is_fused:
            num_heads = 1 if position_ids.shape[1] == 1 else num_queries + num_keys
            return turning(*rope_tables(position_ids, *shape, num_heads, dtype, *stretch), config.rope_order)
        tables = rope_tables(position_ids, *shape, num_queries, dtype, *stretch)
        if num_keys == num_queries:
            return tables, tables
        return tables, tuple(table[:, :num_keys].contiguous() for table in tables)

    def _biases(self, bias, embeds) -> list:
        """Return each layer's mask for whole sequences."""
        batch, length = embeds.shape[:2]
        num_heads, window = self.config.num_attention_heads, self.config.sliding_window
        if isinstance(bias, Runs):
            return self._per_layer(bias, dataclasses.replace(bias, window=window))
        full = prepared_bias(bias, batch, length, num_heads, embeds)
        full = self._fitting(full, embeds)
        if self._is_all_seen(length):
            return self._per_layer(full, full)
        windowed = join_biases(bias, window_bias(length, length, window))
        return self._per_layer(full, self._fitting(prepared_bias(windowed, batch, length, num_heads, embeds), embeds))

    def _cached_biases(self, cache: KVCache, embeds, is_key_visible) -> list:
        """Return each layer's mask for the next positions; None where only they are read, all of them causally."""
        num_new, window = embeds.shape[1], self.config.sliding_window
        is_fresh = cache.length == 0 and is_key_visible is None
        full = None if is_fresh else self._fitting(_cached_bias(cache, num_new, is_key_visible), embeds)
        if self._is_all_seen(cache.length + num_new):
            return self._per_layer(full, full)
        return self._per_layer(full, self._fitting(_cached_bias(cache, num_new, is_key_visible, window), embeds))

    def _is_all_seen(self, length: int) -> bool:
        """Tell if no layer's window hides what stands before in a sequence of so many positions."""
        return self.config.sliding_window is None or length <= self.config.sliding_window

    def _fitting(self, bias, embeds):
        """Return a mask as the device's attention wants it."""
        return bias if bias is None or self.slopes is not None else fitting_mask(bias, embeds, self.config.head_dim)

    def _per_layer(self, full, windowed) -> list:
        num_full = self.config.num_full_layers
        return [full] * num_full + [windowed] * (self.config.num_hidden_layers - num_full)


def _batch(embeds, position_ids, cache: KVCache, is_key_visible) -> list[Row]:
    """Return the rows of the next positions, [B, T, H], without the padding at their front."""
    firsts = np.zeros(embeds.shape[0], dtype=np.int64)
    if is_key_visible is not None:
        visible = is_key_visible.numpy()
        firsts = visible.argmax(axis=1)
        assert (visible.sum(axis=1) == cache.capacity - firsts).all(), "padding behind what is seen"
    batch = []
    for number, first in enumerate(firsts.tolist()):
        new = slice(max(first - cache.length, 0), None)
        batch.append(Row(number, first, embeds[number : number + 1, new], position_ids[number : number + 1, new]))
    return batch


def _cached_bias(cache: KVCache, num_new: int, is_key_visible, window: int | None = None):
    """Return the additive mask [B or 1, 1, T, capacity]: key j is seen by query i if j <= length + i and visible.

    window: and j > length + i - window.
    """
    keys = paddle.arange(cache.capacity, dtype="int64").reshape([1, 1, 1, -1])
    queries = paddle.arange(cache.length, cache.length + num_new, dtype="int64").reshape([1, 1, -1, 1])
    is_hidden = (keys > queries).astype("float32")
    if window is not None:
        is_hidden = is_hidden + (keys <= queries - window).astype("float32")
    if is_key_visible is not None:  # padding sees itself, so that no query is without any key
        is_hidden = paddle.maximum(is_hidden, 1.0 - is_key_visible.astype("float32").unsqueeze(1).unsqueeze(1))
        is_hidden = is_hidden * (keys != queries).astype("float32")
    return is_hidden * MASKED
