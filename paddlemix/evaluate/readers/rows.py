"""Read JSON files row by row, so that a bad row leaves the others readable."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..item import ImageFile, Problem, Record, first_file

Files = Mapping[str, Any]  # paths by role; "images": the folders in which images may be
Read = Iterator[Record | Problem]
Placed = tuple[str, Any]  # where a row stands, and its value
MAX_SHOWN = 60  # characters of a value in a message


def read_json(path: Path, kind: type, key: str = "") -> Any:
    """Return the value of a JSON file, or of a key in it.

    kind: list or dict. Raises ValueError for a file that is missing, empty, not UTF-8 or not JSON, or another value.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        value = json.loads(text)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file in UTF-8: {error}") from None
    if key:
        if not isinstance(value, dict) or key not in value:
            raise ValueError(f"{path} holds {_shown(value)}, expected an object with the key {key!r}")
        value = value[key]
    if not isinstance(value, kind):
        what = f" under {key!r}" if key else ""
        raise ValueError(f"{path} holds {_shown(value)}{what}, expected a {'list' if kind is list else 'JSON object'}")
    return value


def json_list(path: Path, key: str = "") -> list[Placed]:
    """Return the rows of a JSON list, or of the list under a key, with their places."""
    return [(f"{path.name} row {number}", row) for number, row in enumerate(read_json(path, list, key), 1)]


def json_items(path: Path, key: str = "id") -> list[Placed]:
    """Return the rows of a JSON object whose keys are their ids, each with its id under `key`."""
    found = read_json(path, dict)
    return [
        (f"{path.name} {name[:MAX_SHOWN]}", {**row, key: name} if isinstance(row, dict) else row)
        for name, row in found.items()
    ]


def rows_by(rows: Iterable[Placed], key: str) -> dict[str, dict[str, Any]]:
    """Return the rows of a file beside the questions by an id. Broken ones are missed where they are needed."""
    return {str(row[key]): row for _, row in rows if isinstance(row, dict) and isinstance(row.get(key), str | int)}


def json_lines(path: Path) -> Iterator[Placed]:
    """Yield the rows of a file with one JSON value a line; blank lines are skipped. A bad line has its ValueError.

    Raises ValueError for a file that is missing, empty, or has no line that is an object.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    rows = [(f"{path.name} line {number}", _parsed(line)) for number, line in enumerate(lines, 1) if line.strip()]
    if not any(isinstance(row, dict) for _, row in rows):
        raise ValueError(f"{path} has no line that is a JSON object: expected one in each line")
    yield from rows


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return ValueError(f"the line is not JSON in UTF-8: {error}")


def records(rows: Iterable[Placed], make: Callable[[dict], Record | Iterable[Record]]) -> Read:
    """Yield the records that `make` returns for rows, and problems for those where it raises.

    A second record with an id is a problem too.
    """
    seen: dict[str, str] = {}
    for where, row in rows:
        try:
            if isinstance(row, ValueError):
                raise row
            if not isinstance(row, dict):
                raise ValueError(f"the row is {_shown(row)}, expected an object")
            made = make(row)
            made = [made] if isinstance(made, Record) else list(made)
        except KeyError as error:
            yield Problem(where, f"the row has no {error}", named_id(row))
        except (ValueError, TypeError, AttributeError, IndexError, ArithmeticError) as error:  # values of other types
            yield Problem(where, str(error), named_id(row))
        else:
            for record in made:
                if record.id in seen:
                    yield Problem(where, f"the id occurs before, in {seen[record.id]}", record.id)
                else:
                    seen[record.id] = where
                    yield replace(record, where=where)


def named_id(row: Any) -> str:
    """Return the id of a row for messages, "" if it has none."""
    names = ("question_id", "questionId", "id", "index", "image", "imgname")
    found = next((row[name] for name in names if name in row), "") if isinstance(row, dict) else ""
    return str(found)[:MAX_SHOWN] if isinstance(found, str | int) else ""


def text_of(row: Mapping[str, Any], key: str) -> str:
    """Return a text that is not blank. Raises KeyError without the key, ValueError for anything else."""
    value = row[key]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key!r} is {_shown(value)}, expected a text")
    return value


def labels_of(row: Mapping[str, Any], *keys: str) -> dict[str, str]:
    """Return the texts of keys that name a group of questions; those that are absent or empty are left out."""
    return {key: text_of(row, key) for key in keys if row.get(key)}


def texts_of(row: Mapping[str, Any], key: str) -> list[str]:
    """Return a list of texts, with numbers as texts. Raises ValueError for anything else or an empty list."""
    value = row[key]
    if not isinstance(value, list) or not value or not all(isinstance(one, str | int | float) for one in value):
        raise ValueError(f"{key!r} is {_shown(value)}, expected a list of texts")
    return [str(one) for one in value]


def id_of(row: Mapping[str, Any], key: str) -> str:
    """Return an id, a number or a text, as text."""
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"{key!r} is {_shown(value)}, expected a number or a text")
    return str(value)


def image_in(folders: Path | Sequence[Path], *names: str) -> ImageFile:
    """Return the first of several names that is a file in one of several folders; the first of both if none is.

    Missing images matter only to those who ask, see `tasks.task.load`. Raises ValueError for a name that leads out.
    """
    folders = [folders] if isinstance(folders, Path) else folders
    for name in names:
        path = Path(name)
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise ValueError(
                f"the image {name[:MAX_SHOWN]!r} is not in the image folder: expected a path in {folders[0]}"
            )
    return first_file(folders, *names)


def letters(texts: Iterable[Any]) -> dict[str, str]:
    """Return options by letter, from A on."""
    return {chr(ord("A") + place): str(text) for place, text in enumerate(texts)}


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
