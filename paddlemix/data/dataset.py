"""Rows as a map-style data set: each row is encoded when it is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from ..constants import IGNORE_INDEX
from ..image.errors import ImageError, MissingImageError
from ..image.load import SCHEME
from .bad_rows import BadRowPolicy
from .encode import SampleTooLongError
from .row import Row
from .row_note import CUT, TOO_LONG, RowNote
from .sample import Sample

RETRY_SECONDS = (0.1, 0.4)  # pauses before a picture's file is tried again: a network drive may hiccup
MAX_VAIN = 20  # rows in a row that trying again did not help: then the files are bad, and not the drive
MAX_DRAWS = 100  # rows tried in the place of one


class RowError(ValueError):
    """A row cannot be encoded; the text starts with its file and number, and __cause__ says why."""


class NothingTrainedError(ValueError):
    """A sample would silently teach nothing."""


# The errors that are a row's own fault, the special ones first.
KIND_OF = {
    MissingImageError: "missing_picture",
    ImageError: "unreadable_picture",
    SampleTooLongError: TOO_LONG,
    NothingTrainedError: "nothing_trained",
}


class ConversationDataset:
    """Rows and the function that encodes one.

    encode_function(conversation, folders=...) -> (Sample, number of dropped turns): `encode.encode_turns` with its
    other arguments bound by functools.partial, which keeps the data set picklable. Pictures are opened row by row and
    never kept.

    policy: what is done about rows that are bad; None raises. A skipped row is replaced by another one, drawn by (seed,
    index) alone: batches keep their shape and number on every process, and a resumed run draws the same. What was
    skipped or cut stands in the notes of the sample. num_left_out: rows that were skipped before, in their files.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        encode_function: Callable[..., tuple[Sample, int]],
        *,
        policy: BadRowPolicy | None = None,
        split: str = "train",
        seed: int = 0,
        num_left_out: int = 0,
    ):
        self.rows = rows
        self.encode_function = encode_function
        self.policy = policy or BadRowPolicy("raise")
        self.split = split
        self.seed = seed
        self.num_left_out = num_left_out
        self._num_vain = 0
        self._bad: dict[int, RowNote] = {}  # of this process, so that no row is tried twice

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Encode a row, or another one in its place.

        Raises RowError naming file and row for what is not skipped, and TooManyBadRowsError.
        """
        notes: list[RowNote] = []
        for candidate in self._candidates(index):
            outcome = self._bad.get(candidate) or self._read(candidate)
            if isinstance(outcome, Sample):
                return replace(outcome, notes=(*notes, *outcome.notes))
            notes.append(outcome)
            if candidate not in self._bad:
                self._bad[candidate] = outcome
                skipped = {note.key: note for note in self._bad.values()}  # a mixture may hold a row twice
                self.policy.check(list(skipped.values()), len(self.rows) + self.num_left_out, notes)
        raise RowError(
            f"{notes[0].where}: {notes[0].reason}; and none of {len(notes) - 1} rows drawn in its place can be used, "
            f"the last one {notes[-1].where}: {notes[-1].reason}"
        )

    def _candidates(self, index: int) -> Iterator[int]:
        """Yield the row itself and then those that may take its place."""
        yield index
        # NumPy takes no negative seed, which an index from the end would be.
        draws = np.random.default_rng([self.seed, index % len(self.rows)])
        for _ in range(MAX_DRAWS):
            yield int(draws.integers(len(self.rows)))

    def _read(self, index: int) -> Sample | RowNote:
        """Return the sample of a row, or why it is skipped."""
        row = self.rows[index]
        try:
            sample, num_dropped = self._encode(row)
            _check_trained(sample)
        except (ValueError, OSError) as error:
            kind = next((kind for cls, kind in KIND_OF.items() if isinstance(error, cls)), None)
            if kind is None or not self.policy.is_content_skipped:
                raise RowError(f"{row.where}: {error}") from error
            return RowNote.of(row, self.split, kind, str(error))
        notes = (RowNote.of(row, self.split, CUT, num_dropped_turns=num_dropped),) if num_dropped else ()
        return replace(sample, notes=notes, where=row.where)

    def _encode(self, row: Row) -> tuple[Sample, int]:
        """Encode, trying again where a picture's file cannot be read.

        One that is not there stays away, and downloads have been tried again already.
        """
        has_downloads = any(isinstance(image, str) and SCHEME.match(image) for image in row.conversation.images)
        is_tried_again = not has_downloads and self._num_vain < MAX_VAIN
        for pause in RETRY_SECONDS if is_tried_again else ():
            try:
                return self.encode_function(row.conversation, folders=row.folders)
            except MissingImageError:
                raise
            except ImageError:
                time.sleep(pause)
        self._num_vain += is_tried_again
        encoded = self.encode_function(row.conversation, folders=row.folders)
        self._num_vain = 0
        return encoded


def _check_trained(sample: Sample) -> None:
    if sample.labels is None or (np.asarray(sample.labels) == IGNORE_INDEX).all():
        raise NothingTrainedError("no token of the row is trained: expected an answer")
