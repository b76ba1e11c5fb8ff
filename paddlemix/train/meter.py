"""How many tokens a run gets through a second."""

from __future__ import annotations

import time

import numpy as np

from ..constants import IGNORE_INDEX
from ..data.sample import Batch


class Meter:
    """Counts the tokens of this process's batches; num_processes of them are taken to be as fast."""

    def __init__(self, num_processes: int):
        self.num_processes = num_processes
        self.num_tokens = self.num_trained = 0
        self._began = self._last = time.perf_counter()
        self._seen = (0, 0)

    def begin(self) -> None:
        """Count time from here."""
        self._began = self._last = time.perf_counter()

    def add(self, batch: Batch) -> None:
        self.num_tokens += int((np.asarray(batch.segment_ids) > 0).sum())
        self.num_trained += int((np.asarray(batch.labels) != IGNORE_INDEX).sum())

    def recent(self) -> dict[str, float]:
        """Return the rates since this was asked the last time; empty where nothing was counted."""
        now, seen = time.perf_counter(), (self.num_tokens, self.num_trained)
        counts = [new - old for new, old in zip(seen, self._seen, strict=True)]
        seconds, self._last, self._seen = now - self._last, now, seen
        return self._rates(*counts, seconds) if counts[0] else {}

    def overall(self) -> dict[str, float]:
        """Return the rates since the beginning."""
        return self._rates(self.num_tokens, self.num_trained, time.perf_counter() - self._began)

    def _rates(self, num_tokens: int, num_trained: int, seconds: float) -> dict[str, float]:
        factor = self.num_processes / max(seconds, 1e-9)
        return {
            "tokens_per_second": round(num_tokens * factor, 2),
            "trained_tokens_per_second": round(num_trained * factor, 2),
        }
