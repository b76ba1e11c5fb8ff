"""What befell a row: a line for the file of skipped rows, and what the counts are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .row import Row, place

CUT = "cut"
TOO_LONG = "too_long"
# What a skipped row is counted as, with the words of a report. The first six are seen in the file, the others when the
# row is encoded; that nothing is trained is seen in either.
SKIPPED = {
    "not_json": "not JSON",
    "unknown_format": "unknown format",
    "unsupported_key": "unsupported key",
    "wrong_role": "wrong role",
    "empty_answer": "empty answer",
    "wrong_row": "otherwise wrong",
    "missing_picture": "missing picture",
    "unreadable_picture": "unreadable picture",
    TOO_LONG: "too long",
    "nothing_trained": "nothing trained",
}


@dataclass(frozen=True)
class RowNote:
    """One row that was skipped (kind: a key of SKIPPED) or cut (kind: CUT, with the number of turns dropped).

    number and line count from 1, as in Row.
    """

    split: str
    file: str
    number: int
    line: int | None
    id: Any
    kind: str
    reason: str = ""
    num_dropped_turns: int = 0

    @classmethod
    def of(cls, row: Row, split: str, kind: str, reason: str = "", num_dropped_turns: int = 0) -> RowNote:
        return cls(split, row.file, row.number, row.line, row.id, kind, reason, num_dropped_turns)

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes two notes of one row the same, however often the row is read."""
        return self.split, self.file, self.number

    @property
    def is_skipped(self) -> bool:
        return self.kind != CUT

    @property
    def where(self) -> str:
        return place(self.file, self.number, self.line)

    def as_dict(self) -> dict[str, Any]:
        """Return the note for a file or a report, its keys in the words of the data files."""
        values = {"split": self.split, "file": self.file, "row": self.number, "line": self.line, "id": self.id}
        values |= {"kind": self.kind, "reason": self.reason, "dropped_turns": self.num_dropped_turns}
        return {key: value for key, value in values.items() if value or key not in ("reason", "dropped_turns")}


def count_kinds(notes: Iterable[RowNote]) -> dict[str, int]:
    """Return how many rows were skipped for each reason, in the order of SKIPPED."""
    counts = Counter(note.kind for note in notes)
    return {kind: counts[kind] for kind in SKIPPED if counts[kind]}


def in_words(counts: dict[str, int]) -> str:
    """Return "7 missing picture, 2 too long"."""
    return ", ".join(f"{count:,} {SKIPPED[kind]}" for kind, count in counts.items())
