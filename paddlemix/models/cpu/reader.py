"""Fused layers in place of a decoder's layers, for faster inference, and on a CPU faster ways through them.

This is the one seam between the decoder and the code that makes it fast: `LanguageModel.reader`.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import paddle
from paddle import nn

from ...device import num_threads
from ...ops.rope import rotation
from ..kv_cache import KVCache
from ..language.decoder import LanguageModel
from ..language.masks import cached_masks, key_bias, sees_all
from .blockwise import BatchRow, block_ends, read_blockwise, read_rows
from .fused_layer import FusedLayer, is_fusible, num_blocks, row_product, transposed_row_product
from .threads import num_workers


def fuse_projections(model: nn.Layer) -> bool:
    """Replace the layers of a model's decoder by fused ones, which are faster; return whether it was done.

    Layers are replaced one after the other, so that only one layer's weights exist twice at a time. The model can then
    be neither trained nor saved. Nothing changes if the decoder is fused already, or if a layer has quantized weights,
    an adapter, or a feed-forward part without a gate.
    """
    language = model.language_model
    if language.reader is not None or not all(is_fusible(layer) for layer in language.layers):
        return False
    layers = nn.LayerList()
    with paddle.no_grad():
        while len(language.layers):
            layers.append(FusedLayer(language.config, language.layers[0]))
            del language.layers[0]
    language.reader = FusedReader(language, layers)
    return True


class FusedReader(nn.Layer):
    """Reads through fused layers, on a CPU in float32 with several threads for prompts and `step` for single tokens."""

    def __init__(self, language: LanguageModel, layers: nn.LayerList):
        super().__init__()
        self.config, self.rotary = language.config, language.rotary
        self.layers = layers

    def read(self, hidden, position_ids, scales, masks: list, distances):
        """Return the last layer's output for whole sequences [B, T, H]. distances: see `key_bias`."""
        rotate = self._rotation(position_ids, hidden.dtype, scales)
        for layer, mask in zip(self.layers, masks, strict=True):
            hidden = layer(hidden, rotate, mask, distances)
        return hidden

    def read_cached(self, hidden, position_ids, cache: KVCache, is_key_visible):
        """Return the last layer's output for the next positions [B, T, H], whose keys and values go to the cache."""
        rows = cache.rows(hidden.shape[1])
        if self.layers[0].is_quick and self.config.positions != "alibi":
            read = self._read_quickly(hidden, position_ids, cache, rows, is_key_visible)
            if read is not None:
                return read
        masks = cached_masks(self.config, cache, hidden, is_key_visible)
        rotate = self._rotation(position_ids, hidden.dtype, self.rotary.scales_of(cache.is_long))
        distances = key_bias(self.config, cache.capacity, cache.length + hidden.shape[1] - 1)
        for number, layer in enumerate(self.layers):
            hidden = layer.forward_cached(hidden, rotate, masks[number], distances, cache, number, rows)
        return hidden

    def _read_quickly(self, hidden, position_ids, cache: KVCache, rows, is_key_visible):
        """Return the same by a way that is faster on a CPU, or None if none fits."""
        batch, length, _ = hidden.shape
        if length == 1 and cache.length:
            return self._step(hidden, position_ids, cache, rows, is_key_visible)
        if not sees_all(self.config, cache.length + length):
            return None
        if is_key_visible is None and len(ends := block_ends(length)) > 1:
            scales = self.rotary.scales_of(cache.is_long)
            rotations = [self._rotation(position_ids[:, start:end], hidden.dtype, scales) for start, end in ends]
            return read_blockwise(self.layers, hidden, ends, rotations, cache, rows)
        if 1 < num_workers() <= batch:
            rotate = partial(self._rotation_of_rows, cache.is_long, hidden.dtype)
            return read_rows(self.layers, _batch(hidden, position_ids, cache, is_key_visible), rotate, cache, rows)
        return None

    def _step(self, hidden, position_ids, cache: KVCache, rows, is_key_visible):
        """Read one token a row, [B, 1, H]."""
        masks = cached_masks(self.config, cache, hidden, is_key_visible)
        rotate = self._rotation(position_ids, hidden.dtype, self.rotary.scales_of(cache.is_long))
        num_keys = self.config.num_key_value_heads
        shape = [hidden.shape[0], num_keys, self.config.num_attention_heads // num_keys, cache.capacity]
        expanded = {mask: mask.expand(shape).contiguous() for mask in set(masks)}  # adding equal shapes is fastest
        hidden = hidden.squeeze(1)
        for number, (layer, mask) in enumerate(zip(self.layers, masks, strict=True)):
            hidden = layer.step(hidden, rotate, expanded[mask], cache, number, rows)
        return hidden.unsqueeze(1)

    def row_logits(self, language: LanguageModel, row):
        """Return the head's output for a single row [1, H]."""
        is_tied = self.config.tie_word_embeddings
        weight = language.embed_tokens.weight if is_tied else language.lm_head.weight
        product = transposed_row_product if is_tied else row_product
        return product(row, weight, num_blocks(weight, num_threads()))

    def _rotation(self, position_ids, dtype, scales):
        """Return a function that rotates queries and keys concatenated, or None without rotary positions."""
        config = self.config
        num_heads = 1 if position_ids.shape[1] == 1 else config.num_attention_heads + config.num_key_value_heads
        tables = self.rotary.tables(position_ids, num_heads, dtype, scales)
        return None if tables is None else rotation(*tables, config.rope_order)

    def _rotation_of_rows(self, is_long: tuple[bool, ...], dtype, part: list[BatchRow]):
        """Return the rotation for the positions of these rows concatenated."""
        scales = self.rotary.scales_of([is_long[row.number] for row in part])
        if scales is not None and scales.ndim > 1:
            lengths = [row.length for row in part]
            scales = np.repeat(scales[:, 0], lengths, axis=0)[None]
        return self._rotation(paddle.concat([row.position_ids for row in part], axis=1), dtype, scales)


def _batch(hidden, position_ids, cache: KVCache, is_key_visible) -> list[BatchRow]:
    """Return the rows of the next positions [B, T, H], without the padding at their start."""
    firsts = np.zeros(hidden.shape[0], dtype=np.int64)
    if is_key_visible is not None:
        visible = is_key_visible.numpy()
        firsts = visible.argmax(axis=1)
        assert (visible.sum(axis=1) == cache.capacity - firsts).all(), "padding after the first visible position"
    batch = []
    for number, first in enumerate(firsts.tolist()):
        new = slice(max(first - cache.length, 0), None)
        batch.append(BatchRow(number, first, hidden[number : number + 1, new], position_ids[number : number + 1, new]))
    return batch
