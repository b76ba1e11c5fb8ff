"""How many tokens each row makes, for packing and grouping: counted before the first step, by all processes."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import paddle
from tqdm import tqdm

from ..data.bad_rows import BadRowPolicy, TooManyBadRowsError
from ..data.measure import Measure, default_workers, measure_rows
from ..data.row import Row
from ..data.row_note import TOO_LONG, RowNote


def row_lengths(
    rows: Sequence[Row],
    measure: Measure,
    *,
    rank: int = 0,
    num_processes: int = 1,
    policy: BadRowPolicy | None = None,
    split: str = "train",
    num_left_out: int = 0,
) -> np.ndarray:
    """Return the tokens of each row after cutting, int64 [rows], 0 where it will be skipped; called by all processes.

    Each process counts its share. Pictures are opened for their size only, so that nothing but numbers is held.
    policy: raises TooManyBadRowsError, on every process, as soon as more rows are bad than may be skipped; None: never.
    num_left_out: rows that were skipped before, in their files.
    """
    total = len(rows) + num_left_out
    limit = math.inf if policy is None else policy.limit(total) if policy.is_content_skipped else 0
    workers = max(default_workers() // num_processes, 1)
    lengths, bad = _count(rows[rank::num_processes], measure, workers, split, limit, has_bar=rank == 0)
    gathered: list = [(lengths, bad)]
    if num_processes > 1:
        gathered = []
        paddle.distributed.all_gather_object(gathered, (lengths, bad))
    if policy is not None:
        _check([note for _, notes in gathered for note in notes], total, policy)
    counted = np.empty(len(rows), dtype=np.int64)
    for other, (part, _) in enumerate(gathered):
        counted[other::num_processes] = part
    return counted


def _count(
    rows: Sequence[Row], measure: Measure, num_workers: int, split: str, limit: float, *, has_bar: bool
) -> tuple[np.ndarray, list[RowNote]]:
    """Return the lengths of rows and the notes of bad ones, each once; stop where there are more than limit."""
    lengths, bad = [], {}
    with closing(measure_rows(rows, measure, num_workers=num_workers)) as facts:
        is_shown = has_bar and sys.stderr.isatty()
        for row, fact in zip(rows, tqdm(facts, "counting tokens", len(rows), disable=not is_shown), strict=False):
            lengths.append(fact.num_kept)
            if fact.kind in (None, TOO_LONG):
                continue
            note = RowNote.of(row, split, fact.kind, fact.reason)
            bad[note.key] = note  # a mixture may hold a row twice
            if len(bad) > limit:
                break
    return np.array(lengths, dtype=np.int64), list(bad.values())


def _check(notes: list[RowNote], total: int, policy: BadRowPolicy) -> None:
    if notes and not policy.is_content_skipped:
        raise TooManyBadRowsError(f"{notes[0].where}: {notes[0].reason}", notes)
    policy.check(notes, total, notes)
