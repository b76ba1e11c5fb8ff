"""How many tokens each row makes, for packing and grouping: counted before the first step, by all processes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import paddle
from tqdm import tqdm

from ..data.measure import Measure, default_workers, measure_rows
from ..data.row import Row


def row_lengths(rows: Sequence[Row], measure: Measure, *, rank: int = 0, num_processes: int = 1) -> np.ndarray:
    """Return the tokens of each row after cutting, int64 [rows], 0 where it will be skipped; called by all processes.

    Each process counts its share. Pictures are opened for their size only, so that nothing but numbers is held.
    """
    own = rows[rank::num_processes]
    facts = tqdm(
        measure_rows(own, measure, num_workers=max(default_workers() // num_processes, 1)),
        total=len(own),
        desc="counting tokens",
        disable=rank != 0 or not sys.stderr.isatty(),
    )
    counted = np.array([fact.num_kept for fact in facts], dtype=np.int64)
    if num_processes <= 1:
        return counted
    gathered: list = []
    paddle.distributed.all_gather_object(gathered, counted)
    lengths = np.empty(len(rows), dtype=np.int64)
    for other, part in enumerate(gathered):
        lengths[other::num_processes] = part
    return lengths
