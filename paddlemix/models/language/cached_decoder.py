"""The decoder with a key-value cache, by its own layers: the plain way, for every device and every kind of weights."""

from __future__ import annotations

from collections.abc import Sequence

import paddle

from ...device import bucketed_length
from ..kv_cache import KVCache, Places, Run
from .decoder import LanguageModel, scaled
from .masks import run_masks, step_masks


class CachedDecoder:
    """Appends positions to the slots of a cache. The caller sets the cache's lengths afterwards.

    Faster ways through the same weights are subclasses, see `models.fast_decoder`.
    """

    def __init__(self, language: LanguageModel):
        self.language = language
        self.config, self.rotary = language.config, language.rotary

    def prefill(self, embeds, runs: Sequence[Run], cache: KVCache):
        """Append the positions of runs; return the hidden states [sum of num_outputs, H] that they want, or None.

        embeds: [1, N, H], the positions of all runs one after the other; at most one run a slot.
        """
        embeds = scaled(embeds, self.config.embedding_scale)
        counts = [run.count for run in runs]
        parts = paddle.split(embeds, counts, axis=1) if len(runs) > 1 else [embeds]
        found = [self._prefill(part, run, cache) for part, run in zip(parts, runs, strict=True)]
        outputs = [
            hidden[0, run.count - run.num_outputs : run.count]
            for hidden, run in zip(found, runs, strict=True)
            if run.num_outputs
        ]
        return self.language.norm(paddle.concat(outputs)) if outputs else None

    def decode(self, embeds, cache: KVCache):
        """Append one position to every slot, embeds [slots, H]; return the hidden states [slots, H]."""
        hidden = scaled(embeds, self.config.embedding_scale).unsqueeze(1)
        lengths = paddle.to_tensor(cache.lengths, dtype="int64")
        masks = step_masks(self.config, lengths, cache.capacity)
        distances = self.language.distance_bias(cache.capacity, cache.lengths)
        ropes = self._ropes(lengths.unsqueeze(1), hidden.dtype, cache.is_long)
        hidden = self._layers(hidden, ropes, masks, distances, cache, Places(cache.next_rows(lengths)))
        return self.language.norm(hidden.squeeze(1))

    def logits(self, hidden):
        """Return the logits [N, vocab] of hidden states [N, H]."""
        return self.language.logits(hidden)

    def choices(self) -> list:
        """Return how single rows are multiplied with weights, where several ways were tried: see `models.cpu`."""
        return []

    def _prefill(self, embeds, run: Run, cache: KVCache):
        """Return the hidden states of a run, then those of padding to a bucketed length; None if none is wanted."""
        size = min(bucketed_length(run.count), cache.capacity - run.start)
        if size > run.count:
            # The keys of padding stay hidden until they are overwritten: they are beyond the slot's length.
            embeds = paddle.concat([embeds, paddle.zeros([1, size - run.count, embeds.shape[2]], embeds.dtype)], axis=1)
        positions = range(run.start, run.start + size)
        masks = run_masks(self.config, run, size, cache.capacity, embeds)
        distances = self.language.distance_bias(cache.capacity, run.start + size - 1)
        ids = paddle.arange(run.start, run.start + size, dtype="int64").unsqueeze(0)
        ropes = self._ropes(ids, embeds.dtype, [cache.is_long[run.slot]])
        places = Places(cache.rows([run.slot] * size, positions), run.slot)
        return self._layers(embeds, ropes, masks, distances, cache, places, is_wanted=run.num_outputs > 0)

    def _ropes(self, position_ids, dtype, is_long: Sequence[bool]):
        return self.rotary.layer_tables(position_ids, dtype, self.rotary.scales_of(is_long))

    def _layers(self, hidden, ropes, masks: list, distances, cache: KVCache, places: Places, is_wanted: bool = True):
        """Return the last layer's output, or None if it is not wanted: then only its keys and values are computed."""
        *layers, last = self.language.layers
        for number, layer in enumerate(layers):
            hidden = layer.forward_cached(hidden, ropes, masks[number], distances, cache, number, places)
        if is_wanted:
            return last.forward_cached(hidden, ropes, masks[-1], distances, cache, len(layers), places)
        last.write_cached(hidden, ropes, cache, len(layers), places)
        return None
