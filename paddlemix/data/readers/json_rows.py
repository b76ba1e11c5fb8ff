"""Read a .json or .jsonl file to JSON values, one per row, so that one bad row leaves the others readable."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ...foreign_json import is_silent
from ...json_object import repeated_key
from ...terminal.near_paths import did_you_mean
from ...terminal.visible import visible
from .errors import BadRowError
from .fields import key_names, show
from .keys import CONVERSATION_KEYS

logger = logging.getLogger(__name__)
SUFFIXES = (".json", ".jsonl")
LIST_KEY = "data"  # key of the rows if the file is an object
HEAD_KEYS = frozenset(("version", "info", "license", "licenses", "name", "description", "author", "date", "num_rows"))
MAX_DIGITS = 300  # of a whole number; a longer one cannot become a floating point number
END_BYTES = 1 << 12
JsonRow = tuple[int, int | None, Any]  # row number from 1, line number from 1 (None: not line by line), value


class UnreadableValueError(ValueError):
    """A text is JSON by its brackets and commas, but a value in it cannot be read."""


def iterate_rows(path: str | Path) -> Iterator[JsonRow]:
    """Yield the rows of a file in UTF-8, with or without a byte order mark.

    `.json` contains a list, an object with a list under "data", or one row. `.jsonl` contains one row per line; empty
    lines are skipped. A file with the other suffix is read, too, by its content, and that is logged. The value of an
    unreadable row is a BadRowError: a line that is not JSON or not UTF-8, an object with a repeated key, NaN, a number
    of more than MAX_DIGITS digits, lists nested too deeply. Raises ValueError with the file for any other fault.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"data file not found: {path.absolute()}{did_you_mean(path)}")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: unknown kind of data file {path.suffix!r}, expected {' or '.join(SUFFIXES)}")
    if path.suffix.lower() == ".json" and not _is_json_lines(path):
        yield from _read_json(path)
    elif path.suffix.lower() == ".jsonl" and _is_json_list(path):
        logger.info("%s starts with '[': reading it as one JSON list", visible(str(path)))
        yield from _read_json(path)
    else:
        if path.suffix.lower() == ".json":
            logger.info("%s has one JSON object per line: reading it as JSON lines", visible(str(path)))
        yield from _read_lines(path)


def parse(text: str) -> Any:
    """Return the value of a JSON text.

    Raises JSONDecodeError for text that is not JSON, UnreadableValueError for a value that cannot be read.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_whole_number)
    except RecursionError:
        raise UnreadableValueError("lists or objects are nested too deeply") from None


def _read_json(path: Path) -> Iterator[JsonRow]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); save the file as UTF-8") from error
    try:
        rows = _list_of(parse(text), path)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    except UnreadableValueError as error:
        rows = [_value(text[start:end], "row") for start, end in _row_spans(text, path)]
        if not rows:
            raise ValueError(f"{path}: not JSON: {error}") from error
    for number, row in enumerate(rows, start=1):
        yield number, None, row


def _row_spans(text: str, path: Path) -> list[Span]:
    """Return the spans of the rows in the text of a file, none if it is not a list of rows."""
    start = len(text) - len(text.lstrip())
    if text.startswith("{", start):
        members = find_members(text, start)
        start = members.get(LIST_KEY, start)
        _log_head(members, path)
    found = find_parts(text, start) if text.startswith("[", start) else None
    return found[0] if found else []


def _read_lines(path: Path) -> Iterator[JsonRow]:
    lines = ((number, line) for number, line in enumerate(_lines(path), start=1) if line.strip())
    for number, (line_number, line) in enumerate(lines, start=1):
        yield number, line_number, _value(line, "line")


def _value(text: str, what: str) -> Any:
    """Return the value of a row, or the error why it cannot be read."""
    try:
        text.isascii() or text.encode()
        return parse(text)
    except UnicodeEncodeError:
        return BadRowError(f"the {what} is not UTF-8: save the file as UTF-8", "not_json")
    except ValueError as error:
        return BadRowError(f"the {what} is not JSON: {error}", "not_json")


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file. Bytes that are not UTF-8 become halves of surrogate pairs."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        yield from file


def _list_of(value: Any, path: Path) -> list:
    """Return the rows in the value of a file."""
    if isinstance(value, list):
        return value
    found = f"a {type(value).__name__}"
    if isinstance(value, dict):
        if isinstance(value.get(LIST_KEY), list):
            _log_head([key for key, one in value.items() if not is_silent(one)], path)
            return value[LIST_KEY]
        if LIST_KEY not in value and value.keys() & set(CONVERSATION_KEYS):
            return [value]
        found = f"an object with the keys {key_names(value)}"
    raise ValueError(f'{path}: expected a list of rows, or an object with a list under "data"; found {found}')


def _log_head(keys: Iterable[str], path: Path) -> None:
    """Log the unknown keys of an object beside its rows."""
    others = [key for key in keys if key != LIST_KEY and key not in HEAD_KEYS]
    if others:
        names = key_names(dict.fromkeys(others))
        logger.warning("%s", visible(f"{path}: beside {LIST_KEY!r} it has {names}, which are not used"))


def _is_json_lines(path: Path) -> bool:
    """Return whether the first line of a file is an object and more lines follow."""
    first, is_only = _first_line(path)
    return first.startswith("{") and not is_only and _is_closed(first)


def _is_json_list(path: Path) -> bool:
    """Return whether a file is one list, opened in its first line and closed in its last."""
    first, is_only = _first_line(path)
    return first.startswith("[") and (is_only or not _is_closed(first)) and _end(path).endswith(b"]")


def _is_closed(text: str) -> bool:
    found = find_parts(text, 0)
    return found is not None and found[1] == len(text)


def _first_line(path: Path) -> tuple[str, bool]:
    """Return the first line that is not empty, stripped, and whether it is the only one."""
    lines = (line.strip() for line in _lines(path) if line.strip())
    return next(lines, ""), next(lines, None) is None


def _end(path: Path) -> bytes:
    """Return the last bytes of a file without trailing white space."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - END_BYTES, 0))
        return file.read().rstrip()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UnreadableValueError(f"an object has the key {show(repeated_key(pairs), with_type=False)} twice")
    return found


def _no_constant(name: str) -> Any:
    raise UnreadableValueError(f"{name} is not a JSON value: write null for a missing value")


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise UnreadableValueError(f"a number of {len(text):,} digits")
    return int(text)


_TEXT = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_TOKEN = re.compile(rf"{_TEXT}|[\[\]{{}},]", re.DOTALL)
_KEY = re.compile(rf"\s*({_TEXT})\s*:\s*", re.DOTALL)

Span = tuple[int, int]  # start and end in the text


def find_parts(text: str, start: int) -> tuple[list[Span], int] | None:
    """Return the spans of the parts of the list or object at start, and its end; None if it does not end."""
    depth, begin, spans = 0, start + 1, []
    for token in _TOKEN.finditer(text, start):
        mark = text[token.start()]
        depth += (mark in "[{") - (mark in "]}")
        if depth == 0 or (depth == 1 and mark == ","):
            spans.append((begin, token.start()))
            begin = token.end()
        if depth == 0:
            return spans, token.end()
    return None


def find_members(text: str, start: int) -> dict[str, int]:
    """Return the position of the value of each key in the object at start.

    Empty if the object does not end, has a part that is not a member, or has a repeated key.
    """
    found = find_parts(text, start)
    matches = [_KEY.match(text, *span) for span in found[0]] if found else []
    try:
        members = {json.loads(match.group(1)): match.end() for match in matches if match}
    except json.JSONDecodeError:  # a key with an invalid escape
        return {}
    return members if len(members) == len(matches) else {}
