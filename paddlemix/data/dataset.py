"""Map-style data sets: rows that are encoded when they are indexed, alone or packed."""

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

RETRY_SECONDS = (0.1, 0.4)  # pauses before an image file is read again: network drives fail now and then
MAX_FAILED_RETRIES = 20  # consecutive rows that no retry helped: then the files are bad, not the drive
MAX_DRAWS = 100  # replacements tried for one row


class RowError(ValueError):
    """A row cannot be encoded. The text starts with its file and number; __cause__ is the reason."""


class NothingTrainedError(ValueError):
    """No token of a sample is trained."""


# Errors that are the fault of a row, subclasses first.
KIND_OF = {
    MissingImageError: "missing_image",
    ImageError: "unreadable_image",
    SampleTooLongError: TOO_LONG,
    NothingTrainedError: "nothing_trained",
}
ERROR_OF = {kind: cls for cls, kind in KIND_OF.items()}


class ConversationDataset:
    """Rows and the function that encodes one.

    encode_function(conversation, folders=...) -> (Sample, number of dropped turns): `encode.encode_turns` with its
    other arguments bound, in a form that can be pickled. Images are opened when their row is encoded, and not kept.

    policy: what to do with bad rows; None raises. A skipped row is replaced by another one, drawn from (seed, index)
    alone: batches keep their shape and number in every process, and a resumed run draws the same rows. The notes of a
    sample list what was skipped or cut. num_left_out: rows that were skipped earlier, when their files were read.
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
        self._num_failed_retries = 0
        self._bad: dict[int, RowNote] = {}  # in this process, so that no row is tried twice

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Encode a row, or its replacement.

        Raises RowError, which names file and row, for a row that is not skipped, and TooManyBadRowsError.
        """
        notes: list[RowNote] = []
        for candidate in self._candidates(index):
            outcome = self._bad.get(candidate) or self._read(candidate)
            if isinstance(outcome, Sample):
                return replace(outcome, notes=(*notes, *outcome.notes))
            notes.append(outcome)
            if candidate not in self._bad:
                self._bad[candidate] = outcome
                skipped = {note.key: note for note in self._bad.values()}  # a mixture may contain a row twice
                self.policy.check(list(skipped.values()), len(self.rows) + self.num_left_out, notes)
        raise RowError(
            f"{notes[0].where}: {notes[0].reason}; and none of {len(notes) - 1} rows drawn to replace it can be used, "
            f"the last one {notes[-1].where}: {notes[-1].reason}"
        )

    def _candidates(self, index: int) -> Iterator[int]:
        """Yield the row itself and then rows that may replace it."""
        yield index
        # NumPy refuses negative seeds, and an index from the end is negative.
        draws = np.random.default_rng([self.seed, index % len(self.rows)])
        for _ in range(MAX_DRAWS):
            yield int(draws.integers(len(self.rows)))

    def _read(self, index: int) -> Sample | RowNote:
        """Return the sample of a row, or a note why it is skipped."""
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
        """Encode a row, with retries if an image file cannot be read.

        A missing file is not retried, and downloads have retries already.
        """
        if row.encoded is not None and (failure := row.encoded.failure()):
            kind, reason = failure
            raise ERROR_OF[kind](reason)
        has_downloads = any(isinstance(image, str) and SCHEME.match(image) for image in row.conversation.images)
        is_retried = not has_downloads and self._num_failed_retries < MAX_FAILED_RETRIES
        for pause in RETRY_SECONDS if is_retried else ():
            try:
                return self._encode_once(row)
            except MissingImageError:
                raise
            except ImageError:
                time.sleep(pause)
        self._num_failed_retries += is_retried
        encoded = self._encode_once(row)
        self._num_failed_retries = 0
        return encoded

    def _encode_once(self, row: Row) -> tuple[Sample, int]:
        if row.encoded is not None:
            return row.encoded.sample(row.folders)
        return self.encode_function(row.conversation, folders=row.folders)


def _check_trained(sample: Sample) -> None:
    if sample.labels is None or (np.asarray(sample.labels) == IGNORE_INDEX).all():
        raise NothingTrainedError("no token of the row is trained: expected an answer")


class PackedRows:
    """A data set whose items are packs: lists of samples with at most max_length tokens together.

    rows: a data set of samples. packs: row numbers, see `packing.first_fit`. A sample that replaces a bad row may be
    longer than that row. If it does not fit, it is left out, and its notes go to another sample of the pack.
    """

    def __init__(self, rows, packs: Sequence[Sequence[int]], max_length: int):
        self.rows = rows
        self.packs = packs
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> list[Sample]:
        samples = [self.rows[number] for number in self.packs[index]]
        # Replacements have notes of skipped rows. They come last, so that all other samples fit.
        samples.sort(key=lambda sample: any(note.is_skipped for note in sample.notes))
        kept: list[Sample] = []
        room, notes = self.max_length, ()
        for sample in samples:
            if kept and len(sample.token_ids) > room:
                notes += sample.notes
            else:
                kept.append(sample)
                room -= len(sample.token_ids)
        return [replace(kept[0], notes=(*kept[0].notes, *notes)), *kept[1:]] if notes else kept
