"""One row of a data file: what is said in it, and where it stands. Opens nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..conversation.messages import Conversation


@dataclass(frozen=True)
class Row:
    """A conversation and its origin.

    number counts rows from 1; line counts lines from 1 and is None where rows are not lines. folders: where pictures
    with a relative path are looked for, in this order. id: as in the file. format: its reader's name.
    """

    conversation: Conversation
    file: str
    number: int
    line: int | None = None
    folders: tuple[str, ...] = ()
    id: Any = None
    format: str = ""

    @property
    def where(self) -> str:
        return place(self.file, self.number, self.line)


def place(file: str, number: int, line: int | None = None) -> str:
    """Name a row for an error text."""
    return f"{file}, row {number}" + ("" if line is None else f" (line {line})")
