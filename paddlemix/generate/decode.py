"""Generates for several rows in step; rows that are done leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from .engine import Engine


class Row(Protocol):
    """An answer in the making."""

    is_open: bool

    def take(self, logits: np.ndarray) -> int:
        """Choose the next token from logits [vocab], keep it, and return it."""


def continue_rows(engine: Engine, logits: np.ndarray, lengths: Sequence[int], rows: Sequence[Row]) -> None:
    """Let all rows go on from the last logits [B, vocab] until none is open. lengths: of what each row holds so far.

    A row that is done stays until half of those held are, so that a batch has few shapes; it reads its last place over
    and over, which nobody sees.
    """
    held, positions = list(rows), np.array(lengths)
    tokens = np.zeros(len(held), dtype=np.int64)
    while True:
        for place, row in enumerate(held):
            if row.is_open:
                tokens[place] = row.take(logits[place])
        kept = kept_rows([row.is_open for row in held])
        if not kept:
            return
        if len(kept) < len(held):
            engine.keep_rows(kept)
            held, tokens, positions = [held[place] for place in kept], tokens[kept], positions[kept]
        logits = engine.read_ids(tokens, positions[:, None])
        positions = positions + [row.is_open for row in held]


def kept_rows(is_open: Sequence[bool]) -> list[int]:
    """Return the rows to go on with: halves of the batch, rounded up, as long as the open ones fit."""
    width, num_open = len(is_open), sum(is_open)
    if not num_open:
        return []
    while width > 1 and num_open <= (width + 1) // 2:
        width = (width + 1) // 2
    first = sorted(range(len(is_open)), key=lambda row: not is_open[row])
    return sorted(first[:width])
