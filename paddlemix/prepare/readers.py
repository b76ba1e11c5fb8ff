"""Streaming readers of raw files. Each yields rows with their places; a row that cannot be read is a Problem.

Raised as ValueError is what makes the rest of a file unreadable, and a file of another kind. Then nothing is written.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from .json_stream import BLOCK, MAX_VALUE, JsonStream, check_start
from .paths import RawPath, opened, size_of
from .row import Placed, Problem

BATCH = 16  # rows of a Parquet file at once; they may hold images


def json_rows(path: RawPath) -> Iterator[Placed]:
    """Yield the rows of a JSON list, or of a file with one value a line, whatever the file's name says."""
    yield from json_list(path) if first_character(path) == "[" else json_lines(path)


def first_character(path: RawPath) -> str:
    """Return the first character of a JSON text that is not white space, "" for none, whatever follows it."""
    with opened(path) as file:
        block = file.read(len(codecs.BOM_UTF8))
        check_start(block, path)
        block = block.removeprefix(codecs.BOM_UTF8)
        while not block.strip(b" \t\r\n"):
            block = file.read(BLOCK)
            if not block:
                return ""
        return block.strip(b" \t\r\n")[:1].decode("latin-1")


def json_list(path: RawPath, key: str = "", *, as_text: bool = False) -> Iterator[Placed]:
    """Yield the elements of a JSON list, or of the list under a key of the one object in the file, or their texts."""
    size = size_of(path)
    with opened(path) as file:
        stream = JsonStream(file, str(path))
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


def _placed(path: RawPath, stream: JsonStream, size: int, as_text: bool) -> Iterator[Placed]:
    name = path.name
    for number, value in enumerate(stream.elements(as_text=as_text), 1):
        yield Placed(f"{name} row {number}", value, stream.num_bytes / size)


def json_lines(path: RawPath, *, as_text: bool = False) -> Iterator[Placed]:
    """Yield the values of a file with one a line, or their texts, which may not be JSON.

    Blank lines are skipped. A line that is not JSON in UTF-8 is a Problem.
    """
    name, size, done = path.name, size_of(path), 0
    with opened(path) as file:
        for number, line in enumerate(iter(partial(file.readline, MAX_VALUE), b""), 1):
            if number == 1:
                check_start(line, path)
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
    """Yield the rows of a Parquet file as dicts with some of its columns, all of which it must have.

    A row with a text that is not UTF-8 is a Problem.
    """
    import pyarrow
    import pyarrow.parquet

    with opened(path) as file:
        try:
            table = pyarrow.parquet.ParquetFile(file, pre_buffer=False)
            missing = [name for name in columns if name not in table.schema_arrow.names]
            if missing:
                raise ValueError(f"{path} has no column {missing[0]!r}: it has {', '.join(table.schema_arrow.names)}")
            number, total = 0, max(1, table.metadata.num_rows)
            for batch in table.iter_batches(BATCH, columns=list(columns), use_threads=False):
                for row in _batch_rows(batch):
                    number += 1
                    yield Placed(f"{path.name} row {number}", row, number / total)
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{path} is not a complete Parquet file: {error}") from None


def _batch_rows(batch: Any) -> list[Any]:
    """Return the rows of a batch as dicts, one by one if a text in it is not UTF-8, and Problems in place of those."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        if len(batch) == 1:
            return [Problem("a text is not UTF-8", f"a text of the row is not UTF-8: {error}")]
        return [row for number in range(len(batch)) for row in _batch_rows(batch.slice(number, 1))]
