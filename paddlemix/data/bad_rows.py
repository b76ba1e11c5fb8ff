"""What to do with bad rows: stop, or go on without them up to a limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .readers.files import formats_note
from .row_note import TOO_LONG, RowNote, count_kinds, in_words

CHOICES = ("raise", "skip")
DEFAULT_SHARE = 0.01
DEFAULT_LEAST = 10


class TooManyBadRowsError(ValueError):
    """More rows are bad than the run may skip. notes: of rows that are not counted yet."""

    def __init__(self, text: str, notes: Sequence[RowNote] = ()):
        super().__init__(text)
        self.notes = tuple(notes)


@dataclass(frozen=True)
class BadRowPolicy:
    """The settings on_bad_sample and max_bad_samples.

    on_bad_sample: "raise" stops at any bad row, "skip" at none. None: a row with wrong content in its file stops the
    run, because a person has to correct it; rows with unreadable images and rows that do not fit are skipped.
    max_bad_samples: how many rows may be skipped, or below 1 the share of all rows; None: 1% but at least 10. Rows that
    are too long do not count: there is nothing wrong with them, only max_length leaves them out.
    """

    on_bad_sample: str | None = None
    max_bad_samples: float | None = None

    def __post_init__(self):
        if self.on_bad_sample not in (None, *CHOICES):
            raise ValueError(f"on_bad_sample is {self.on_bad_sample!r}: expected {' or '.join(CHOICES)}")
        number = self.max_bad_samples
        if number is not None and not (0 <= number < math.inf and (number < 1 or number == int(number))):
            raise ValueError(f"max_bad_samples is {number}: expected a whole number of rows, or a share below 1")

    @property
    def is_structure_skipped(self) -> bool:
        """Whether a row with wrong content in its file is left out."""
        return self.on_bad_sample == "skip"

    @property
    def is_content_skipped(self) -> bool:
        """Whether a row is left out if its images are bad or it does not fit."""
        return self.on_bad_sample != "raise"

    def limit(self, num_rows: int) -> int:
        """Return how many of num_rows rows may be skipped."""
        if self.max_bad_samples is None:
            return max(DEFAULT_LEAST, int(DEFAULT_SHARE * num_rows))
        return int(self.max_bad_samples * num_rows if self.max_bad_samples < 1 else self.max_bad_samples)

    def check(self, skipped: Sequence[RowNote], num_rows: int, uncounted: Sequence[RowNote] = ()) -> None:
        """Raise TooManyBadRowsError, with the reason of the last row, if too many rows were skipped.

        skipped: each row once. uncounted: notes to pass on with the error.
        """
        bad = [note for note in skipped if note.kind != TOO_LONG]
        limit = self.limit(num_rows)
        if len(bad) <= limit:
            return
        raise TooManyBadRowsError(
            f"{len(bad)} of {num_rows} rows are bad ({in_words(count_kinds(bad))}), but max_bad_samples allows "
            f"{limit}; the last one: {bad[-1].where}: {bad[-1].reason}; correct the data, or set max_bad_samples to a "
            "higher number or share",
            uncounted,
        )


def refuse(bad: Sequence[RowNote], max_named: int = 5) -> None:
    """Raise ValueError with the first of the bad rows of files and the places of the others; do nothing for no rows."""
    if not bad:
        return
    text = f"{bad[0].where}: {bad[0].reason}"
    if len(bad) == 1:
        raise ValueError(f"{text} (on_bad_sample: skip leaves bad rows out){formats_note([bad[0].kind])}")
    others = ", ".join(
        f"row {note.number}" if note.file == bad[0].file else f"{note.file}, row {note.number}"
        for note in bad[1 : max_named + 1]
    )
    rest = ", ..." if len(bad) > max_named + 1 else ""
    raise ValueError(
        f"{text}; {len(bad) - 1} more rows are wrong ({others}{rest}; in all {in_words(count_kinds(bad))}); "
        f"on_bad_sample: skip leaves bad rows out{formats_note(note.kind for note in bad)}"
    )
