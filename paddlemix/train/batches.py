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


class GuardedRows:
    """A data set whose items are samples or failures."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int):
        try:
            return self.rows[index]
        except Exception as error:  # raised again by `opened`
            return Failure.of(error)


class Collator:
    """Puts samples into the dictionary that paddlenlp hands to `compute_loss`."""

    def __init__(self, processor: LlavaProcessor):
        self.processor = processor

    def __call__(self, samples) -> dict[str, Any]:
        batch = next((sample for sample in samples if isinstance(sample, Failure)), None)
        try:
            batch = batch or self.processor.collate(samples)
        except Exception as error:  # raised again by `opened`
            batch = Failure.of(error)
        # The loader turns arrays into tensors and leaves other objects alone, so the batch stays on the host; the
        # tensor beside it is what paddlenlp counts the rows of.
        counted = np.zeros([len(samples), 1]) if isinstance(batch, Failure) else batch.segment_ids
        return {"batch": batch, "segment_ids": counted}


def opened(batch: Batch | Failure) -> Batch:
    """Return the batch. Raises ValueError for a mistake in the data, RuntimeError with the trace for our own."""
    if not isinstance(batch, Failure):
        return batch
    if batch.trace is None:
        raise ValueError(batch.text)
    raise RuntimeError(f"reading the data failed:\n{batch.trace}")
