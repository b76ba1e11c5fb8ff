"""Bytes of a .json or .jsonl file to JSON values. Knows nothing of conversations."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import NotJsonError

logger = logging.getLogger(__name__)
SUFFIXES = (".json", ".jsonl")
JsonRow = tuple[int, int | None, Any]  # row number from 1, line number from 1 (None: not line by line), value


def iterate_rows(path: str | Path) -> Iterator[JsonRow]:
    """Yield the rows of a file in UTF-8, with or without a byte order mark.

    `.json` holds a list, an object with a list under "data", or one row. `.jsonl` holds one row a line; empty lines
    are skipped. What the file holds counts, not its suffix: the other form is read too, and that is logged.
    A line that is not JSON gives a NotJsonError as its value. Raises ValueError naming the file for anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"data file not found: {path.absolute()}")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: unknown kind of data file {path.suffix!r}, expected {' or '.join(SUFFIXES)}")
    try:
        if path.suffix.lower() == ".jsonl":
            yield from _read_jsonl(path)
        else:
            yield from _read_json(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); save the file as UTF-8") from error


def _read_json(path: Path) -> Iterator[JsonRow]:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        if not _is_json_lines(path):
            raise ValueError(f"{path}: not JSON: {error}") from error
        logger.info("%s holds one JSON object a line: reading it as JSON lines", path)
        yield from _read_lines(path)
        return
    for number, row in enumerate(_list_of(value, path), start=1):
        yield number, None, row


def _read_jsonl(path: Path) -> Iterator[JsonRow]:
    if _first_line(path).startswith("["):
        logger.info("%s starts with '[': reading it as one JSON list", path)
        yield from _read_json(path)
    else:
        yield from _read_lines(path)


def _read_lines(path: Path) -> Iterator[JsonRow]:
    number = 0
    with path.open(encoding="utf-8-sig") as file:
        for line_number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            number += 1
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                value = NotJsonError(f"the line is not JSON: {error}")
            yield number, line_number, value


def _list_of(value: Any, path: Path) -> list:
    """Return the rows in the value of a whole file."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and "data" not in value and {"conversations", "messages"} & value.keys():
        return [value]
    found = f"a {type(value).__name__}"
    if isinstance(value, dict):
        if isinstance(value.get("data"), list):
            return value["data"]
        found = f"an object with the keys {', '.join(map(repr, value)) or '(none)'}"
    raise ValueError(f'{path}: expected a list of rows, or an object with a list under "data"; found {found}')


def _first_line(path: Path) -> str:
    """Return the first line that is not empty, without the space around it."""
    with path.open(encoding="utf-8-sig") as file:
        return next((line.strip() for line in file if line.strip()), "")


def _is_json_lines(path: Path) -> bool:
    try:
        return isinstance(json.loads(_first_line(path)), dict)
    except json.JSONDecodeError:
        return False
