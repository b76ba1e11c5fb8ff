"""One row of a data file: its conversation and its origin. No image is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..conversation.messages import Conversation


@dataclass(frozen=True)
class Row:
    """A conversation and its origin.

    number: row number, from 1. line: line number, from 1, or None if rows are not lines. folders: where to look for
    images with a relative path, in order. id: as in the file. format: name of the reader. encoded: the row as it was
    encoded before, an `encoded.Encoded` or None; its conversation then has images, and no messages.
    """

    conversation: Conversation
    file: str
    number: int
    line: int | None = None
    folders: tuple[str, ...] = ()
    id: Any = None
    format: str = ""
    encoded: Any = None

    @property
    def where(self) -> str:
        return row_name(self.file, self.number, self.line)


def row_name(file: str, number: int, line: int | None = None) -> str:
    """Return the name of a row for an error text."""
    return f"{file}, row {number}" + ("" if line is None else f" (line {line})")
