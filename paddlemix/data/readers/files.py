"""A data file to rows: JSON values, the format of each row, and the checks."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...conversation.messages import Conversation
from ...conversation.render import place_images
from ..row import Row, place
from . import llava, messages, pairs
from .fields import show
from .json_rows import iterate_rows
from .turns import check_marks, check_turns, drop_leading_answer

logger = logging.getLogger(__name__)
READERS = (pairs, llava, messages)


def read_rows(path: str | Path, *, folders: Sequence[str] = ()) -> list[Row]:
    """Read a data file; each row may have any of the known formats.

    folders: where its pictures are looked for, in order. Pictures are not opened. Raises ValueError naming file and
    row for the first row that is wrong, and for a file without rows. What was changed on the way (a picture without
    a mark placed, a leading answer dropped) is logged once for the file, with the count.
    """
    rows, changes = [], Counter()
    for number, line, value in iterate_rows(path):
        try:
            conversation, row_changes = read_row(value)
        except ValueError as error:
            raise ValueError(f"{place(str(path), number, line)}: {error}") from error
        changes.update(row_changes)
        rows.append(Row(conversation, str(path), number, line, tuple(folders)))
    if not rows:
        raise ValueError(f"{path}: the file has no rows")
    for change, count in changes.items():
        logger.warning("%s: %d of %d rows: %s", path, count, len(rows), change)
    return rows


def read_row(value: Any) -> tuple[Conversation, list[str]]:
    """Return the conversation of one row and what was changed in it. Raises ValueError when it is not a good row."""
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {show(value)}")
    reader = next((reader for reader in READERS if reader.matches(value)), None)
    if reader is None:
        raise ValueError(_describe_unknown(value))
    conversation, is_dropped = drop_leading_answer(reader.read(value))
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
    return f"not a known row format: {found}; expected one of " + " | ".join(reader.SHAPE for reader in READERS)
