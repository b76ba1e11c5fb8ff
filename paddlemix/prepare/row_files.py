"""The files that rows are written to: JSON lines, and a Parquet copy of them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from .row import NOT_UNICODE, Problem

PIECE = 1 << 16  # bytes that are written at once
GROUP = 4096  # rows of a row group
BLOCK = 1 << 20  # bytes
_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode  # json.dumps would make an encoder for each row


class RowFile(Protocol):
    """A file of rows that is being written."""

    def write(self, row: dict[str, Any]) -> Problem | None:
        """Write a row; return why it cannot be written."""

    def finish(self) -> list[Any]:
        """Write what is left; return the size and checksum of the file as `record.content_of` finds them."""


class JsonLines:
    """A file with a row in each line, in UTF-8."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._piece: list[bytes] = []
        self._num_waiting = self._size = 0
        self._checksum = checksum()

    def write(self, row: dict[str, Any]) -> Problem | None:
        """Write a row; return why it cannot be written."""
        line = encoded(row)
        if isinstance(line, Problem):
            return line
        line += b"\n"
        self._piece.append(line)
        self._num_waiting += len(line)
        if self._num_waiting >= PIECE:
            self._flush()
        return None

    def finish(self) -> list[Any]:
        """Write what is left; return size and checksum."""
        self._flush()
        return [self._size, self._checksum.hexdigest()]

    def _flush(self) -> None:
        piece = b"".join(self._piece)
        self._file.write(piece)
        self._checksum.update(piece)
        self._size += len(piece)
        self._piece.clear()
        self._num_waiting = 0


class JsonList:
    """A file that is one JSON list, for programs that read nothing else."""

    def __init__(self, file: BinaryIO):
        self._file, self._size, self._checksum = file, 0, checksum()
        self._start = b"[\n"

    def write(self, row: dict[str, Any]) -> Problem | None:
        """Write a row; return why it cannot be written."""
        text = encoded(row)
        if isinstance(text, Problem):
            return text
        self._put(self._start + text)
        self._start = b",\n"
        return None

    def finish(self) -> list[Any]:
        """Write the end; return size and checksum."""
        self._put(b"[]\n" if self._start == b"[\n" else b"\n]\n")
        return [self._size, self._checksum.hexdigest()]

    def _put(self, piece: bytes) -> None:
        self._file.write(piece)
        self._checksum.update(piece)
        self._size += len(piece)


def form_of(path: Path) -> type[JsonLines | JsonList]:
    """Return the form of a file of rows that its name asks for: .json is one JSON list, all else is JSON lines."""
    return JsonList if path.suffix.lower() == ".json" else JsonLines


class ParquetRows:
    """A Parquet file with the columns id (seven digits, from 0) and llava (the row). Images are not in it."""

    def __init__(self, file: BinaryIO):
        import pyarrow
        import pyarrow.parquet

        text = pyarrow.string()
        turns = pyarrow.list_(pyarrow.struct([("from", text), ("value", text)]))
        row = pyarrow.struct([("id", text), ("image", text), ("conversations", turns)])
        self._file = file
        self._schema = pyarrow.schema([("id", text), ("llava", row)])
        self._table = pyarrow.Table
        self._writer = pyarrow.parquet.ParquetWriter(file, self._schema)
        self._group: list[dict[str, Any]] = []
        self._number = 0

    def write(self, row: dict[str, Any]) -> Problem | None:
        """Write a row."""
        self._group.append({"id": f"{self._number:07d}", "llava": row})
        self._number += 1
        if len(self._group) == GROUP:
            self._flush()
        return None

    def finish(self) -> list[Any]:
        """Write what is left; return size and checksum."""
        self._flush()
        self._writer.close()
        self._file.flush()
        with os.fdopen(os.dup(self._file.fileno()), "rb") as file:
            file.seek(0)
            return content_in(file)

    def _flush(self) -> None:
        if self._group:
            self._writer.write_table(self._table.from_pylist(self._group, schema=self._schema))
            self._group.clear()


def encoded(row: dict[str, Any]) -> bytes | Problem:
    """Return a row as JSON in UTF-8, or why it cannot be written."""
    try:
        return _ENCODE(row).encode()
    except UnicodeEncodeError:
        return Problem(*NOT_UNICODE)
    except (ValueError, RecursionError) as error:
        return Problem("not writable as JSON", str(error))


def content_in(file: BinaryIO) -> list[Any]:
    """Return the size and checksum of what is read from a file."""
    found, size = checksum(), 0
    while block := file.read(BLOCK):
        found.update(block)
        size += len(block)
    return [size, found.hexdigest()]


def checksum() -> Any:
    """Return an empty checksum."""
    return hashlib.blake2b(digest_size=16)
