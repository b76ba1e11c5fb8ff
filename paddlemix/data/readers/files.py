"""Read a data file to rows: detect the format of each JSON value, read it and check it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ...conversation.messages import Conversation
from ...conversation.render import place_images
from ...foreign_json import KeyRules
from ...terminal.visible import visible
from ..row import Row
from ..row_note import RowNote
from . import READERS
from .checks import add_system, check_marks, check_texts, check_turns, drop_leading_answer
from .errors import BadRowError, TooFewImagesError
from .fields import key_names, show
from .json_rows import iterate_rows
from .keys import CONVERSATION_KEYS, ROW, image_key_hint, stated_keys, unused_keys
from .turns import check_row

logger = logging.getLogger(__name__)
MAX_NOTICES = 20  # notices per file
PLACED = "an image without <image> is placed before the first question"
MAX_NAME = 200  # characters of an id in reports
LEADING_ANSWER = "the answer before the first question is left out, as by LLaVA"


def scan_rows(
    path: str | Path, *, folders: Sequence[str] = (), split: str = "train"
) -> tuple[list[Row], list[RowNote]]:
    """Return the good rows of a data file and notes of the bad ones. Each row may have any known format.

    folders: where to look for the images, in order. Images are not opened. Changes to rows (an image without a mark
    placed, a leading answer dropped) and unused keys are logged once for the file, with their counts. Raises ValueError
    with the file if it cannot be read or has no rows.
    """
    rows, bad, changes = [], [], Counter()
    for number, line, value in iterate_rows(path):
        name = _name(value)
        try:
            conversation, row_changes = read_row(value)
        except ValueError as error:
            kind = error.kind if isinstance(error, BadRowError) else "wrong_row"
            bad.append(RowNote(split, str(path), number, line, name, kind, str(error)))
            continue
        changes.update(row_changes)
        rows.append(Row(conversation, str(path), number, line, tuple(folders), name, format_of(value)))
    if not rows and not bad:
        raise ValueError(f"{path}: the file has no rows")
    _log_changes(changes, path, len(rows))
    return rows, bad


def _log_changes(changes: Counter[str], path: str | Path, num_rows: int) -> None:
    path = visible(str(path))
    for change, count in changes.most_common(MAX_NOTICES):
        logger.warning("%s: %d of %d rows: %s", path, count, num_rows, visible(change))
    if len(changes) > MAX_NOTICES:
        logger.warning("%s: and %d more keys that are not used", path, len(changes) - MAX_NOTICES)


def _name(value: Any) -> Any:
    """Return the "id" of a row for reports, shortened if it is long or not a plain name."""
    name = value.get("id") if isinstance(value, dict) else None
    is_plain = name is None or isinstance(name, int) or (isinstance(name, str) and len(name) <= MAX_NAME)
    return name if is_plain else show(name, MAX_NAME, with_type=False)


def format_of(value: dict) -> str | None:
    """Return the name of the reader for a row, or None."""
    return next((name for name, reader in READERS.items() if reader.matches(value)), None)


def read_row(value: Any) -> tuple[Conversation, list[str]]:
    """Return the conversation of one row, and notices of what was changed or is not used.

    Raises ValueError for a bad row, and no other exception, whatever the row contains.
    """
    if isinstance(value, BadRowError):
        raise value
    if not isinstance(value, dict):
        raise BadRowError(f"expected an object, found {show(value)}", "unknown_format")
    try:
        return _read_object(value)
    except RecursionError:
        raise BadRowError("the lists or objects of the row are nested too deeply") from None


def known_formats() -> list[str]:
    """Return a short example of each format, for errors. Images are optional in all of them."""
    return [reader.SHAPE for reader in READERS.values()]


def formats_note(kinds: Iterable[str]) -> str:
    """Return the end of an error with the formats, one a line; "" if no row has the kind "unknown_format"."""
    return "\n  ".join(["\nknown formats of a row:", *known_formats()]) if "unknown_format" in kinds else ""


def _read_object(row: dict) -> tuple[Conversation, list[str]]:
    name = format_of(row)
    if name is None:
        raise BadRowError(_describe_unknown(row), "unknown_format")
    reader = READERS[name]
    notices = _check_keys(row, reader)
    try:
        conversation, changes = _conversation_of(row, reader)
    except TooFewImagesError as error:
        raise BadRowError(f"{error}{image_key_hint(row, _rules_of(row, reader))}") from None
    return conversation, notices + changes


def _conversation_of(row: dict, reader: ModuleType) -> tuple[Conversation, list[str]]:
    """Return the checked conversation of a row, and what was changed."""
    conversation, is_dropped = drop_leading_answer(add_system(reader.read(row), row))
    check_texts(conversation)
    check_turns(conversation)
    is_placed = False
    if conversation.images and not any(message.num_images for message in conversation.messages):
        conversation, is_placed = place_images(conversation)
    check_marks(conversation)
    return conversation, [LEADING_ANSWER] * is_dropped + [PLACED] * is_placed


def _check_keys(row: dict, reader: ModuleType) -> list[str]:
    """Return notices of unused keys. Raises BadRowError for keys that cannot be ignored."""
    own = reader.keys(row)
    others = [key for key in stated_keys(row, CONVERSATION_KEYS) if key not in own]
    if others:
        found = " and ".join(map(repr, [min(own & row.keys()), others[0]]))
        raise BadRowError(f"the row has {found}, which are two conversations: expected one of them")
    check_row(row)
    return unused_keys([("the row", row, _rules_of(row, reader), "the row"), *reader.nested_objects(row)])


def _rules_of(row: dict, reader: ModuleType) -> KeyRules:
    return KeyRules(ROW.used | reader.keys(row), ROW.inert)


def _describe_unknown(row: dict) -> str:
    if "conversations" in row:
        found = f"'conversations' is {show(row['conversations'])}"
    else:
        found = f"found the keys {key_names(row)}"
    return f"not a known row format: {found}; expected a conversation under 'conversations' or 'messages'"
