"""Streaming readers of raw files. Each yields rows with their places; a row that cannot be read is a Problem.

Raised as ValueError is what makes the rest of a file unreadable, and a file of another kind. Then nothing is written.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO

from .json_stream import BLOCK, MAX_VALUE, UTF16, JsonStream
from .paths import RawPath, opened, size_of
from .row import Placed, Problem

MAX_CELL = (1 << 31) - 1  # characters; csv's own limit is 131,072
BATCH = 16  # rows of a Parquet file at once; they may hold images


def json_rows(path: RawPath) -> Iterator[Placed]:
    """Yield the rows of a JSON list, or of a file with one value a line, whatever the file's name says."""
    yield from json_list(path) if first_character(path) == "[" else json_lines(path)


def first_character(path: RawPath) -> str:
    """Return the first character of a JSON text that is not white space, "" for none, whatever follows it."""
    with _reading(path) as file:
        block = file.read(len(codecs.BOM_UTF8))
        if block[:2] in UTF16:
            raise ValueError(f"{path} is UTF-16: save it as UTF-8")
        block = block.removeprefix(codecs.BOM_UTF8)
        while not block.strip(b" \t\r\n"):
            block = file.read(BLOCK)
            if not block:
                return ""
        return block.strip(b" \t\r\n")[:1].decode("latin-1")


def json_list(path: RawPath, key: str = "", *, as_text: bool = False) -> Iterator[Placed]:
    """Yield the elements of a JSON list, or of the list under a key of the one object in the file, or their texts."""
    size = size_of(path)
    with _stream(path) as stream:
        if not key:
            if stream.peek() != "[":
                raise ValueError(f"{path} starts with {stream.peek()!r}, expected a JSON list")
            yield from _placed(path, stream, size, as_text)
            return stream.end()
        if stream.peek() != "{":
            raise ValueError(f"{path} starts with {stream.peek()!r}, expected an object with the list {key!r}")
        found = []
        for name in stream.members():
            found.append(name)
            if name == key:
                yield from _placed(path, stream, size, as_text)
            else:
                stream.value()
        if key not in found:
            raise ValueError(f"{path} has no {key!r}: its keys are {', '.join(found[:10])}")
        stream.end()


def json_items(path: RawPath) -> Iterator[Placed]:
    """Yield (key, value) for each member of the one object in a file."""
    size = size_of(path)
    with _stream(path) as stream:
        if stream.peek() != "{":
            raise ValueError(f"{path} starts with {stream.peek()!r}, expected an object")
        for name in stream.members():
            yield Placed(f"{path.name} {name[:60]!r}", (name, stream.value()), stream.num_bytes / size)
        stream.end()


def _placed(path: RawPath, stream: JsonStream, size: int, as_text: bool) -> Iterator[Placed]:
    name = path.name
    for number, value in enumerate(stream.elements(as_text=as_text), 1):
        yield Placed(f"{name} row {number}", value, stream.num_bytes / size)


def json_lines(path: RawPath, *, as_text: bool = False) -> Iterator[Placed]:
    """Yield the values of a file with one a line, or their texts, which may not be JSON.

    Blank lines are skipped. A line that is not JSON in UTF-8 is a Problem.
    """
    name, size, done = path.name, size_of(path), 0
    with _reading(path) as file:
        for number, line in enumerate(iter(partial(file.readline, MAX_VALUE), b""), 1):
            if number == 1 and line[:2] in UTF16:
                raise ValueError(f"{path} is UTF-16: save it as UTF-8")
            if len(line) == MAX_VALUE:
                raise ValueError(f"{path} line {number} is longer than {MAX_VALUE:,} bytes: expected one row a line")
            done += len(line)
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                yield Placed(f"{name} line {number}", _parsed(line, as_text), done / size)


def _parsed(line: bytes, as_text: bool) -> Any:
    try:
        text = line.decode("utf-8")
        return text if as_text else json.loads(text)
    except (ValueError, RecursionError) as error:
        return Problem("not JSON in UTF-8", f"the line is not JSON in UTF-8: {error}")


def parquet_rows(path: RawPath, columns: Sequence[str]) -> Iterator[Placed]:
    """Yield the rows of a Parquet file as dicts with some of its columns, all of which it must have."""
    import pyarrow
    import pyarrow.parquet

    with _reading(path) as file:
        try:
            table = pyarrow.parquet.ParquetFile(file, pre_buffer=False)
            missing = [name for name in columns if name not in table.schema_arrow.names]
            if missing:
                raise ValueError(f"{path} has no column {missing[0]!r}: it has {', '.join(table.schema_arrow.names)}")
            number, total = 0, max(1, table.metadata.num_rows)
            for batch in table.iter_batches(BATCH, columns=list(columns), use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield Placed(f"{path.name} row {number}", row, number / total)
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{path} is not a complete Parquet file: {error}") from None


def table_rows(path: RawPath, delimiter: str) -> Iterator[Placed]:
    """Yield the rows of a table with a header as dicts of texts. An empty cell is "", and nothing else is.

    Quotation marks are doubled inside quoted cells, as spreadsheets write them.
    """
    csv.field_size_limit(MAX_CELL)
    size = size_of(path)
    with _reading(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        rows = csv.reader(text, delimiter=delimiter)
        try:
            header = next(rows, None)
            if not header or len(set(header)) < len(header):
                raise ValueError(f"{path} has no header with a different name for each column: found {header}")
            for number, cells in enumerate(rows, 1):
                if not cells:
                    continue
                yield Placed(f"{path.name} row {number}", _named(header, cells), min(1.0, file.tell() / size))
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a table in UTF-8: {error}") from None


def _named(header: list[str], cells: list[str]) -> dict[str, str] | Problem:
    if len(cells) != len(header):
        return Problem("cells do not fit the header", f"the row has {len(cells)} cells, the header {len(header)}")
    return dict(zip(header, cells, strict=True))


@contextmanager
def _stream(path: RawPath) -> Iterator[JsonStream]:
    with _reading(path) as file:
        yield JsonStream(file, str(path))


@contextmanager
def _reading(path: RawPath) -> Iterator[BinaryIO]:
    """Open a file. Raises ValueError for an archive that turns out to be damaged."""
    with opened(path) as file:
        try:
            yield file
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{path} is in a damaged archive: {error}; download it again") from None
