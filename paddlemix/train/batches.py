"""Rows to what paddlenlp's Trainer hands to `compute_loss`.

Paddle's loader reads rows in a thread or in worker processes. An exception there never reaches the training loop: with
the thread the run would wait for ever. So whatever goes wrong travels as a value and is raised where the batch is used.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checkpoints.processor import LlavaProcessor
from ..data.bad_rows import TooManyBadRowsError
from ..data.row_note import RowNote
from ..data.sample import Batch
from .sampler import SKIPPED

WIDTH_STEP = 128  # positions


@dataclass(frozen=True)
class Failure:
    """A mistake in the data (its text), or our own (with the trace). notes: rows that were skipped before it."""

    text: str
    trace: str | None = None
    notes: tuple[RowNote, ...] = ()

    @classmethod
    def of(cls, error: Exception) -> Failure:
        is_users = isinstance(error, (ValueError, OSError))
        notes = error.notes if isinstance(error, TooManyBadRowsError) else ()
        return cls(str(error), None if is_users else traceback.format_exc(), notes)


@dataclass(frozen=True)
class Skipped:
    """A batch that a resumed run has seen before."""

    notes: tuple[RowNote, ...] = ()


class GuardedRows:
    """A data set whose items are samples, packs (lists of them) or failures; SKIPPED stays what it is."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | None):
        try:
            return SKIPPED if index is SKIPPED else self.rows[index]
        except Exception as error:  # raised again by `opened`
            return Failure.of(error)


class Collator:
    """Puts items into the dictionary that paddlenlp hands to `compute_loss`.

    is_flat: all samples behind each other in one row, so that nothing is padded and computed for nothing; else a row
    for each item, of a multiple of WIDTH_STEP positions, as devices want it that compile for shapes.
    """

    def __init__(self, processor: LlavaProcessor, *, is_flat: bool = False):
        self.processor = processor
        self.is_flat = is_flat

    def __call__(self, items) -> dict[str, Any]:
        # The loader turns arrays into tensors and leaves other objects alone, so the batch stays on the host; the
        # tensor beside it is what paddlenlp counts the rows of.
        return {"batch": self._batch(items), "segment_ids": np.zeros([len(items), 1])}

    def _batch(self, items) -> Batch | Failure | Skipped:
        if any(item is SKIPPED for item in items):
            return Skipped()
        failure = next((item for item in items if isinstance(item, Failure)), None)
        if failure is not None:
            return failure
        packs = [item if isinstance(item, list) else [item] for item in items]
        if self.is_flat:
            packs = [[sample for pack in packs for sample in pack]]
        try:
            return self.processor.collate_packs(packs, None if self.is_flat else WIDTH_STEP)
        except Exception as error:  # raised again by `opened`
            return Failure.of(error)


def opened(batch: Batch | Failure) -> Batch:
    """Return the batch. Raises ValueError for a mistake in the data, RuntimeError with the trace for our own."""
    if not isinstance(batch, Failure):
        return batch
    if batch.trace is None:
        raise ValueError(batch.text)
    raise RuntimeError(f"reading the data failed:\n{batch.trace}")
