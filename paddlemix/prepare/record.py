"""The record beside an output: what it was made of, so that a second run finds it done, and never replaces other files.

It is `.NAME.prepared`, and is written just before its output is renamed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..json_object import parse_object
from ..output import OutputError, check_file, write_json
from .row_files import content_in
from .summary import Summary


@dataclass(frozen=True)
class Record:
    """What an output was made of, and its content.

    made_of: converter, version, settings and inputs. content: size and checksum. replaces: content of the earlier
    output that it replaced, None if there was none.
    """

    made_of: Mapping[str, Any]
    content: Sequence[Any]
    replaces: Sequence[Any] | None
    summary: Summary


def record_path(output: Path) -> Path:
    """Return where the record of an output is."""
    return output.with_name(f".{output.name}.prepared")


def read_record(output: Path) -> Record | None:
    """Return the record of an output; None if there is none that can be read."""
    try:
        found = parse_object(record_path(output).read_bytes(), ValueError, "the record")
        made_of = {**found["made_of"], "converter": str(found["made_of"]["converter"])}
        return Record(made_of, found["content"], found["replaces"], Summary.from_dict(found["summary"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_record(output: Path, record: Record) -> None:
    """Write the record of an output."""
    summary = record.summary.as_dict()
    fields = {"made_of": record.made_of, "content": record.content, "replaces": record.replaces, "summary": summary}
    write_json(record_path(output), fields)


def content_of(path: Path) -> list[Any] | None:
    """Return the size and checksum of a file, None if there is none."""
    check_file(path)
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return content_in(file)


def is_own(content: Sequence[Any] | None, record: Record | None, name: str) -> bool:
    """Return whether there is a file that a converter wrote and nobody has changed since."""
    is_known = record is not None and record.made_of["converter"] == name
    return content is not None and is_known and content in (record.content, record.replaces)


def check_own(output: Path, content: Sequence[Any] | None, record: Record | None, name: str) -> None:
    """Raise OutputError if there is a file that is not an earlier output of a converter, or that was changed since."""
    if content is None or is_own(content, record, name):
        return
    maker = None if record is None else record.made_of["converter"]
    what = "was changed after this command wrote it" if maker == name else "was not written by this command"
    raise OutputError(f"{output} {what}: move it away, or replace it with --overwrite")
