"""A data file to rows: JSON values, the format of each row, and the checks."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ...conversation.messages import Conversation
from ...conversation.render import place_images
from ...foreign_json import KeyRules
from ...terminal.visible import visible
from ..bad_rows import refuse
from ..row import Row
from ..row_note import RowNote
from . import exchanges, llava, messages, pairs, query
from .errors import BadRowError, UnknownFormatError
from .fields import key_names, show
from .json_rows import iterate_rows
from .keys import CONVERSATION_KEYS, ROW, stated_keys, unused_keys
from .trained import check_row
from .turns import check_marks, check_texts, check_turns, drop_leading_answer, put_system

logger = logging.getLogger(__name__)
READERS = {"pairs": pairs, "llava": llava, "messages": messages, "exchanges": exchanges, "query": query}
MAX_NOTICES = 20  # that a file gives
MAX_NAME = 200  # characters of an id in reports


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
    answer dropped) and the keys that are not used are logged once for the file, with the count.
    """
    rows, bad, changes = [], [], Counter()
    for number, line, value in iterate_rows(path):
        name = _name(value)
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
    _tell(changes, path, len(rows))
    return rows, bad


def _tell(changes: Counter[str], path: str | Path, num_rows: int) -> None:
    path = visible(str(path))
    for change, count in changes.most_common(MAX_NOTICES):
        logger.warning("%s: %d of %d rows: %s", path, count, num_rows, visible(change))
    if len(changes) > MAX_NOTICES:
        logger.warning("%s: and %d more keys that are not used", path, len(changes) - MAX_NOTICES)


def _name(value: Any) -> Any:
    """Return the "id" of a row for reports, shortened where it is no plain name."""
    name = value.get("id") if isinstance(value, dict) else None
    is_plain = name is None or isinstance(name, int) or (isinstance(name, str) and len(name) <= MAX_NAME)
    return name if is_plain else show(name, MAX_NAME, with_type=False)


def format_of(value: dict) -> str | None:
    """Return the name of the reader that knows a row, or None."""
    return next((name for name, reader in READERS.items() if reader.matches(value)), None)


def read_row(value: Any) -> tuple[Conversation, list[str]]:
    """Return the conversation of one row, and what was changed in it or not used of it.

    Raises ValueError when it is not a good row, and never anything else, whatever the row holds.
    """
    if isinstance(value, BadRowError):
        raise value
    if not isinstance(value, dict):
        raise UnknownFormatError(f"expected an object, found {show(value)}")
    try:
        return _read_object(value)
    except RecursionError:
        raise BadRowError("the row has lists or objects too deep inside each other") from None


def _read_object(row: dict) -> tuple[Conversation, list[str]]:
    name = format_of(row)
    if name is None:
        raise UnknownFormatError(_describe_unknown(row))
    reader = READERS[name]
    notices = _check_keys(row, reader)
    conversation, is_dropped = drop_leading_answer(put_system(reader.read(row), row))
    check_texts(conversation)
    check_turns(conversation)
    is_placed = False
    if conversation.images and not any(message.num_images for message in conversation.messages):
        conversation, is_placed = place_images(conversation)
    check_marks(conversation)
    notices += ["an answer before the first user turn was dropped"] * is_dropped
    return conversation, notices + ["a picture without <image> was placed before the first user turn"] * is_placed


def _check_keys(row: dict, reader: ModuleType) -> list[str]:
    """Return notices of the keys that are not used. Raises BadRowError for those that cannot be passed over."""
    own = reader.keys(row)
    others = [key for key in stated_keys(row, CONVERSATION_KEYS) if key not in own]
    if others:
        found = " and ".join(map(repr, [min(own & row.keys()), others[0]]))
        raise BadRowError(f"the row has {found}, two conversations: expected one of them")
    check_row(row)
    rules = KeyRules(ROW.used | own, ROW.inert)
    return unused_keys([("the row", row, rules, "the row"), *reader.stated(row)])


def _describe_unknown(row: dict) -> str:
    if "conversations" in row:
        found = f"'conversations' is {show(row['conversations'])}"
    else:
        found = f"found the keys {key_names(row)}"
    shapes = " | ".join(reader.SHAPE for reader in READERS.values())
    return f"not a known row format: {found}; expected one of {shapes}"
