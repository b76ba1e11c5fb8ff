"""Files of rows to train on, in any format that training reads: streamed, and parsed by training's rules of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..data.readers.json_rows import LIST_KEY, parse
from .converter import Argument
from .json_stream import MAX_VALUE
from .paths import opened, raw_file
from .readers import first_character, json_lines, json_list
from .row import Placed, Problem, RowError, shown

FILES = Argument("files", "files of rows: a JSON list, or one JSON object a line", False, {"nargs": "+"})
NOT_JSON = "not JSON"


def row_paths(names: Sequence[str]) -> list[Path]:
    """Return the paths of files of rows. Raises ValueError for anything else, and for a file that is named twice."""
    paths = [raw_file(name) for name in names]
    for path in paths:
        if not isinstance(path, Path):
            raise ValueError(f"{path} is in an archive: unpack it first")
        if [one.resolve() for one in paths].count(path.resolve()) > 1:
            raise ValueError(f"{path} is named twice: its rows would be there twice")
    return paths


def row_texts(path: Path) -> Iterator[Placed]:
    """Yield the texts of the rows of a file: a list, an object with a list under "data", or one object a line."""
    key = _list_key(path)
    yield from json_lines(path, as_text=True) if key is None else json_list(path, key, as_text=True)


def rows_of(paths: Sequence[Path]) -> Iterator[Placed]:
    """Yield the rows of files as dicts. A row that training could not read as JSON is a Problem."""
    for number, path in enumerate(paths):
        for row in row_texts(path):
            share = (number + row.share) / len(paths)
            yield Placed(row.where, row_or_problem(row.value), share)


def row_or_problem(text: str | Problem) -> dict[str, Any] | Problem:
    """Return the row in a text, or why there is none."""
    if isinstance(text, Problem):
        return text
    try:
        return parsed_row(text)
    except RowError as error:
        return error.problem


def parsed_row(text: str) -> dict[str, Any]:
    """Return the row in a text. Raises RowError for repeated keys, NaN, and whatever is no object."""
    try:
        value = parse(text)
    except ValueError as error:
        raise RowError(NOT_JSON, f"the row is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RowError("not an object", f"the row is {shown(value)}, expected an object")
    return value


def _list_key(path: Path) -> str | None:
    """Return the key of the list of rows, "" for a file that is a list, None for a file with one row a line."""
    first = first_character(path)
    if first != "{":
        return "" if first == "[" else None
    with opened(path) as file:
        line = b""
        while not line.removeprefix(b"\xef\xbb\xbf").strip():
            line = file.readline(MAX_VALUE)
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        is_open = error.pos >= len(error.doc.rstrip())  # the object goes on in the next line
        return LIST_KEY if is_open else None
    except (ValueError, RecursionError):
        return None
    return LIST_KEY if isinstance(value.get(LIST_KEY), list) else None
