"""Rows as a map-style data set: each row is encoded when it is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from ..constants import IGNORE_INDEX
from .row import Row
from .sample import Sample

logger = logging.getLogger(__name__)


class RowError(ValueError):
    """A row cannot be encoded; the text starts with its file and number, and __cause__ says why."""


class ConversationDataset:
    """Rows and the function that encodes one.

    encode_function(conversation, folders=...) -> (Sample, number of dropped turns): `encode.encode_turns` with its
    other arguments bound by functools.partial, which keeps the data set picklable. Pictures are opened row by row and
    never kept. num_cut_rows and num_dropped_turns count what was cut to fit since the start; each loader worker has its
    own copy of the data set and so its own counts.
    """

    def __init__(self, rows: Sequence[Row], encode_function: Callable[..., tuple[Sample, int]]):
        self.rows = rows
        self.encode_function = encode_function
        self.num_cut_rows = 0
        self.num_dropped_turns = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Encode a row. Raises RowError naming file and row for whatever is wrong with it."""
        row = self.rows[index]
        try:
            sample, num_dropped = self.encode_function(row.conversation, folders=row.folders)
            _check_trained(sample)
        except (ValueError, OSError) as error:
            raise RowError(f"{row.where}: {error}") from error
        if num_dropped:
            self._count_cut(row, num_dropped, len(sample.token_ids))
        return sample

    def _count_cut(self, row: Row, num_dropped: int, length: int) -> None:
        if not self.num_cut_rows:
            logger.warning(
                "%s: the last %d turns were dropped to fit max_length (%d tokens are left); further rows are cut "
                "without a message and counted",
                row.where,
                num_dropped,
                length,
            )
        self.num_cut_rows += 1
        self.num_dropped_turns += num_dropped


def _check_trained(sample: Sample) -> None:
    """Refuse a sample that would silently teach nothing."""
    if sample.labels is None or (np.asarray(sample.labels) == IGNORE_INDEX).all():
        raise ValueError("no token of the row is trained: expected an answer")
