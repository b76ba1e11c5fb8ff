"""What the cards do that do not lead: they repeat the leader's operations, see `leader`."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

from ..kv_cache import KVCache, Run, Taken
from ..language.cached_decoder import CachedDecoder
from .leader import END, receive


class Follower:
    """Repeats what the leader computes, until it ends. language: this card's part of the decoder."""

    def __init__(self, language):
        self.language, self.cards = language, language.cards
        self.decoder = CachedDecoder(language)
        self.caches: dict[int, KVCache] = {}
        self.taken: dict[int, Taken] = {}
        self.dtype = language.norm.weight.dtype
        self.hidden = None

    @paddle.no_grad()
    def follow(self) -> None:
        while (message := receive(self.cards))[0] != END:
            name, gone, values = message
            for number in gone:
                del (self.caches if number in self.caches else self.taken)[number]
            getattr(self, f"_{name}")(*values)

    def _embed(self, ids: np.ndarray) -> None:
        self.language.embed_tokens(paddle.to_tensor(ids))

    def _new_cache(self, number: int, num_slots: int, capacity: int) -> None:
        self.caches[number] = self.language.new_cache(num_slots, capacity)

    def _copy_prefix(self, number: int, lengths: list, is_long: list, *values: Any) -> None:
        self._cache(number, lengths, is_long).copy_prefix(*values)

    def _resize(self, number: int, lengths: list, is_long: list, *values: Any) -> None:
        self._cache(number, lengths, is_long).resize(*values)

    def _take(self, number: int, lengths: list, is_long: list, taken: int, *values: int) -> None:
        self.taken[taken] = self._cache(number, lengths, is_long).take(*values)

    def _put(self, number: int, lengths: list, is_long: list, slot: int, start: int, taken: int, *ends: int) -> None:
        self._cache(number, lengths, is_long).put(slot, start, self.taken[taken].between(*ends))

    def _prefill(self, number: int, lengths: list, is_long: list, shape: list[int], runs: list[Run]) -> None:
        self.hidden = self.decoder.prefill(self._embeds(shape), runs, self._cache(number, lengths, is_long))

    def _decode(self, number: int, lengths: list, is_long: list, shape: list[int]) -> None:
        self.hidden = self.decoder.decode(self._embeds(shape), self._cache(number, lengths, is_long))

    def _logits(self, shape: list[int]) -> None:
        assert list(self.hidden.shape) == shape, (self.hidden.shape, shape)
        self.language.logits(self.hidden)

    def _cache(self, number: int, lengths: list, is_long: list) -> KVCache:
        cache = self.caches[number]
        cache.lengths, cache.is_long = list(lengths), list(is_long)
        return cache

    def _embeds(self, shape: list[int]):
        embeds = paddle.zeros(shape, self.dtype)
        paddle.distributed.broadcast(embeds, src=self.cards.first, group=self.cards.group)
        return embeds
