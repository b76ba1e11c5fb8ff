"""A data file to rows: JSON values, the format of each row, and the checks."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...conversation.messages import Conversation
from ...conversation.render import place_images
from ..bad_rows import refuse
from ..row import Row
from ..row_note import RowNote
from . import llava, messages, pairs
from .errors import BadRowError, NotJsonError, UnknownFormatError
from .fields import show
from .json_rows import iterate_rows
from .turns import check_marks, check_turns, drop_leading_answer

logger = logging.getLogger(__name__)
READERS = {"pairs": pairs, "llava": llava, "messages": messages}


def read_rows(path: str | Path, *, folders: Sequence[str] = ()) -> list[Row]:
    """Read a data file as `scan_rows` does. Raises ValueError naming file and row when any row is wrong."""
    rows, bad = scan_rows(path, folders=folders)
    refuse(bad)
    return rows


def scan_rows(
    path: str | Path, *, folders: Sequence[str] = (), split: str = "train"
) -> tuple[list[Row], list[RowNote]]:
    """Return the good rows of a data file and what is wrong with the others; each row may have any known format.

    folders: where its pictures are looked for, in order. Pictures are not opened. Raises ValueError naming the file
    when it cannot be read or has no rows. What was changed on the way (a picture without a mark placed, a leading
    answer dropped) is logged once for the file, with the count.
    """
    rows, bad, changes = [], [], Counter()
    for number, line, value in iterate_rows(path):
        name = value.get("id") if isinstance(value, dict) else None
        try:
            conversation, row_changes = read_row(value)
        except ValueError as error:
            kind = error.kind if isinstance(error, BadRowError) else BadRowError.kind
            bad.append(RowNote(split, str(path), number, line, name, kind, str(error)))
            continue
        changes.update(row_changes)
        rows.append(Row(conversation, str(path), number, line, tuple(folders), name, format_of(value)))
    if not rows and not bad:
        raise ValueError(f"{path}: the file has no rows")
    for change, count in changes.items():
        logger.warning("%s: %d of %d rows: %s", path, count, len(rows), change)
    return rows, bad


def format_of(value: dict) -> str | None:
    """Return the name of the reader that knows a row, or None."""
    return next((name for name, reader in READERS.items() if reader.matches(value)), None)


def read_row(value: Any) -> tuple[Conversation, list[str]]:
    """Return the conversation of one row and what was changed in it. Raises ValueError when it is not a good row."""
    if isinstance(value, NotJsonError):
        raise value
    if not isinstance(value, dict):
        raise UnknownFormatError(f"expected an object, found {show(value)}")
    name = format_of(value)
    if name is None:
        raise UnknownFormatError(_describe_unknown(value))
    conversation, is_dropped = drop_leading_answer(READERS[name].read(value))
    check_turns(conversation)
    is_placed = False
    if conversation.images and not any(message.num_images for message in conversation.messages):
        conversation, is_placed = place_images(conversation)
    check_marks(conversation)
    changes = ["an answer before the first user turn was dropped"] * is_dropped
    return conversation, changes + ["a picture without <image> was placed before the first user turn"] * is_placed


def _describe_unknown(row: dict) -> str:
    if "conversations" in row:
        found = f"'conversations' is {show(row['conversations'])}"
    else:
        found = f"found the keys {', '.join(map(repr, row)) or '(none)'}"
    shapes = " | ".join(reader.SHAPE for reader in READERS.values())
    return f"not a known row format: {found}; expected one of {shapes}"
