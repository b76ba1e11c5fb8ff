"""The leader's way through the decoder, see `leader`; the others' is `follower`."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import paddle

from ..kv_cache import Run
from ..language.cached_decoder import CachedDecoder
from .leader import LedCache


class LedDecoder(CachedDecoder):
    """The leader's decoder with a `LedCache`."""

    def __init__(self, language):
        super().__init__(language)
        self.leader = language.leader

    def prefill(self, embeds, runs: Sequence[Run], cache: LedCache):
        return self._do("prefill", embeds, cache, list(runs))

    def decode(self, embeds, cache: LedCache):
        return self._do("decode", embeds, cache)

    def logits(self, hidden):
        work = functools.partial(super().logits, hidden)
        return self.leader.compute("logits", work, list(hidden.shape))

    def _do(self, name: str, embeds, cache: LedCache, *runs):
        compute = getattr(super(), name)

        def work():
            paddle.distributed.broadcast(embeds, src=self.leader.cards.first, group=self.leader.cards.group)
            return compute(embeds, *runs, cache)

        return self.leader.compute(name, work, cache.number, cache.lengths, cache.is_long, list(embeds.shape), *runs)
