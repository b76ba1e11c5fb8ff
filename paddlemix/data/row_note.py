"""Why a row was skipped or cut: a line in the file of skipped rows, and the counts by reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..output import replacing
from .row import Row, row_name

NOTES_FILE = "bad_samples.jsonl"  # of a folder of encoded rows, as in the output of a run
CUT = "cut"
TOO_LONG = "too_long"
# The kinds of skipped rows with their names in reports. The kinds are also values in files and JSON reports. The first
# six are found when the file is read, the others when the row is encoded, and nothing_trained at either time.
SKIPPED = {
    "not_json": "not JSON",
    "unknown_format": "unknown format",
    "unsupported_key": "unsupported key",
    "wrong_role": "wrong role",
    "empty_answer": "empty answer",
    "wrong_row": "otherwise wrong",
    "missing_image": "missing image",
    "unreadable_image": "unreadable image",
    TOO_LONG: "too long",
    "nothing_trained": "nothing trained",
}
_EARLIER = {"missing_picture": "missing_image", "unreadable_picture": "unreadable_image"}  # names in earlier versions


def kind_of(name: str) -> str:
    """Return the kind that a checkpoint or a token cache names, which an earlier version may have written."""
    return _EARLIER.get(name, name)


@dataclass(frozen=True)
class RowNote:
    """One row that was skipped (kind: a key of SKIPPED) or cut (kind: CUT, with the number of dropped turns).

    number, line: from 1, as in Row.
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
        """The identity of the row: equal for notes from several reads of it."""
        return self.split, self.file, self.number

    @property
    def is_skipped(self) -> bool:
        return self.kind != CUT

    @property
    def where(self) -> str:
        return row_name(self.file, self.number, self.line)

    def as_dict(self) -> dict[str, Any]:
        """Return the note as JSON for a file or a report."""
        values = {"split": self.split, "file": self.file, "row": self.number, "line": self.line, "id": self.id}
        values |= {"kind": self.kind, "reason": self.reason, "dropped_turns": self.num_dropped_turns}
        return {key: value for key, value in values.items() if value or key not in ("reason", "dropped_turns")}


def write_notes(path: Path, notes: Iterable[RowNote]) -> None:
    """Write notes to a file, one a line, in the order of their rows; write no file if there are none."""
    ordered = sorted(notes, key=lambda note: (note.file, note.number))
    if ordered:
        with replacing(path) as file:
            file.writelines(json.dumps(note.as_dict()).encode() + b"\n" for note in ordered)


def count_kinds(notes: Iterable[RowNote]) -> dict[str, int]:
    """Return the number of skipped rows of each kind, in the order of SKIPPED."""
    counts = Counter(note.kind for note in notes)
    return {kind: counts[kind] for kind in SKIPPED if counts[kind]}


def in_words(counts: dict[str, int]) -> str:
    """Return "7 missing image, 2 too long"."""
    return ", ".join(f"{count:,} {SKIPPED[kind]}" for kind, count in counts.items())
