"""The file of judgements: one line each, written as soon as it is there, so that none is paid for twice.

A line is {"id", "judge", "rules", "prompt", "answer", "texts", "served"}: the question, the model that judged, the name
of its instructions, hashes of what it was asked and of the answer that it judged, what it wrote, and the server's own
name for the model. Several lines of one prompt are several runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..line_file import LineFile, complete_lines

HASH_LENGTH = 16


def hash_of(value: Any) -> str:
    """Return a short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value).encode("ascii")).hexdigest()[:HASH_LENGTH]


@dataclass(frozen=True)
class Line:
    """A line of the journal; see the head of this file."""

    id: str
    judge: str
    rules: str
    prompt: str
    answer: str
    texts: tuple[str, ...]
    served: str = ""


class Journal:
    """An open journal. Used in a `with` block, in which no other process can write to it."""

    def __init__(self, path: str | Path, judge: str):
        """judge: model that will judge."""
        self.judge = judge
        self.lines: list[Line] = []
        self._file = LineFile(path)

    def __enter__(self) -> Journal:
        """Open the file and read its lines. Raises ValueError if another judge wrote it, or a line is damaged."""
        with ExitStack() as opened:
            opened.enter_context(self._file)
            self.lines = read_lines(self._file.path)
            other = next((line.judge for line in self.lines if line.judge != self.judge), None)
            if other is not None:
                raise ValueError(
                    f"{self._file.path} has judgements of {other}, and the judge is {self.judge}: figures of two "
                    "judges do not compare; to keep both, copy the folder and remove the file from the copy"
                )
            opened.pop_all()
        return self

    def __exit__(self, *exception) -> None:
        self._file.__exit__(*exception)

    def add(self, line: Line) -> None:
        """Append a line; it is on the disk when this returns."""
        self._file.add(asdict(line))
        self.lines.append(line)


def read_lines(path: str | Path) -> list[Line]:
    """Return the lines of a journal, without a last one that is not complete; none if there is no file.

    Raises ValueError that names the first damaged line.
    """
    path = Path(path)
    return [_line(path, number, part) for number, part in enumerate(complete_lines(path), 1) if part.strip()]


def _line(path: Path, number: int, text: bytes) -> Line:
    try:
        row = json.loads(text)
        texts = tuple(row["texts"])
        names = {name: row[name] for name in ("id", "judge", "rules", "prompt", "answer")}
        if not texts or not all(isinstance(one, str) for one in (*texts, *names.values())):
            raise TypeError
        return Line(**names, texts=texts, served=str(row.get("served", "")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"line {number} of {path} is no judgement: remove the line, to have it judged again") from None


def texts_by_prompt(lines: Iterable[Line]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the texts of each id and prompt, in the order in which they were written."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for line in lines:
        key = (line.id, line.prompt)
        found[key] = found.get(key, ()) + line.texts
    return found
