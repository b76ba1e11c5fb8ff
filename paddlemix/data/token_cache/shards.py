"""Arrow files of a token cache: written in batches under a temporary name, mapped into memory and checked when read."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...output import replacing
from .records import BATCH_ROWS, SCHEMA, Record, batch_of, record_at

MAX_OPEN = 128  # shards that stay open: a process may have 1,024 files
MAX_BATCHES = 64  # checked batches that stay in memory, as views of the files


class CacheError(ValueError):
    """A token cache that is damaged, not finished, or of other data or settings. The text says what to do."""


COMMAND = "`paddlemix prepare cache`"
AGAIN = f"remove the folder and make the cache again with {COMMAND}"  # which goes on with what is there
OWNER = "cache"  # key of a shard's metadata: the plan that it was made for, see `manifest.Plan.owner`


def write_batches(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> None:
    """Write batches to an Arrow file, which appears when it is complete."""
    with replacing(path) as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def write_shard(path: Path, batches: Iterable[pa.RecordBatch], owner: str) -> None:
    """Write batches of records to a shard of the cache of a plan."""
    write_batches(path, batches, SCHEMA.with_metadata({OWNER: owner}))


def write_records(path: Path, records: Iterator[Record], owner: str) -> None:
    """Write records to a shard of the cache of a plan. No more than BATCH_ROWS are in memory."""
    write_shard(path, (batch_of(group) for group in iter(lambda: list(islice(records, BATCH_ROWS)), [])), owner)


def write_columns(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Write arrays [n] to an Arrow file of one batch."""
    batch = pa.record_batch({name: pa.array(values) for name, values in columns.items()})
    write_batches(path, [batch], batch.schema)


def read_columns(path: Path, dtypes: dict[str, type]) -> dict[str, np.ndarray]:
    """Return the arrays of a file that `write_columns` wrote, mapped from the disk. Raises CacheError."""
    reader = _opened(path, pa.schema([(name, pa.from_numpy_dtype(dtype)) for name, dtype in dtypes.items()]))
    if reader.num_record_batches != 1:
        raise CacheError(f"{path} is damaged: it has {reader.num_record_batches} batches, expected 1; {AGAIN}")
    batch = _batch(reader, 0, path)
    return {name: batch.column(index).to_numpy() for index, name in enumerate(dtypes)}


class Shard:
    """A shard that is mapped into memory. Raises CacheError for one of another plan's cache than that of `owner`."""

    def __init__(self, path: Path, owner: str):
        self.path = path
        self.reader = _opened(path, SCHEMA)
        if (self.reader.schema.metadata or {}).get(OWNER.encode()) != owner.encode():
            raise CacheError(f"{path} is a file of another cache; {AGAIN}")

    def batch(self, number: int) -> pa.RecordBatch:
        """Return a batch, checked so that no offset in it leads out of the file. Raises CacheError."""
        if not 0 <= number < self.reader.num_record_batches:
            raise CacheError(f"{self.path} is damaged: it has no batch {number}; {AGAIN}")
        return _batch(self.reader, number, self.path)

    def batches(self) -> Iterator[pa.RecordBatch]:
        for number in range(self.reader.num_record_batches):
            yield self.batch(number)

    def rows(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows from start to stop as slices of batches, all of which but the last have BATCH_ROWS rows."""
        while start < stop:
            number, offset = divmod(start, BATCH_ROWS)
            part = self.batch(number).slice(offset, stop - start)
            if not len(part):
                raise CacheError(f"{self.path} is damaged: it has no row {start}; {AGAIN}")
            yield part
            start += len(part)

    def skipped(self) -> Iterator[Record]:
        """Yield the records of rows that are skipped. Raises as `records`."""
        for batch in self.batches():
            for index, kind in enumerate(batch.column("kind").to_pylist()):
                if kind:
                    yield checked_record(batch, index, self.path)[0]

    def records(self) -> Iterator[tuple[Record, int]]:
        """Yield all records and their checksums. Raises CacheError for one that is not as it was written."""
        for batch in self.batches():
            for index in range(len(batch)):
                yield checked_record(batch, index, self.path)


class ShardFiles:
    """The shards of a folder, opened when a row of them is read. owner: of their plan."""

    def __init__(self, folder: Path, names: tuple[str, ...], owner: str):
        self.folder = folder
        self.owner = owner
        self.names = names
        self._shards: OrderedDict[int, Shard] = OrderedDict()
        self._batches: OrderedDict[tuple[int, int], pa.RecordBatch] = OrderedDict()
        self._last: tuple[tuple[int, int] | None, Record | None] = (None, None)  # a row is read for several purposes

    def record(self, shard: int, row: int) -> Record:
        """Return a row of a shard. Raises CacheError if it is damaged."""
        place, last = self._last
        if place == (shard, row):
            return last
        number, index = divmod(row, BATCH_ROWS)
        path = self.folder / self.names[shard]
        batch = _recent(self._batches, (shard, number), lambda: self.shard(shard).batch(number), MAX_BATCHES)
        if index >= len(batch):
            raise CacheError(f"{path} is damaged: it has no row {row}; {AGAIN}")
        record, _ = checked_record(batch, index, path)
        self._last = (shard, row), record
        return record

    def shard(self, shard: int) -> Shard:
        return _recent(self._shards, shard, lambda: Shard(self.folder / self.names[shard], self.owner), MAX_OPEN)


def checked_record(batch: pa.RecordBatch, index: int, path: Path) -> tuple[Record, int]:
    """Return a record and its checksum, if it is right. Raises CacheError for any other."""
    try:
        record, stored = record_at(batch, index)
        is_right = record.checksum == stored
    except (
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        struct.error,
        pa.ArrowException,
    ):  # empty or strange values
        is_right = False
    if not is_right:
        raise CacheError(f"{path} is damaged: a row is not as it was written (wrong checksum); {AGAIN}")
    return record, stored


def _recent(known: OrderedDict, key, make, most: int):
    """Return the value of a key, made if it is not known; forget the one that was not used for the longest time."""
    value = known.pop(key, None) or make()  # two threads may both make it, and either will do
    known[key] = value
    if len(known) > most:
        known.popitem(last=False)
    return value


def _opened(path: Path, schema: pa.Schema) -> pa.ipc.RecordBatchFileReader:
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CacheError(f"{path} cannot be read: {_line(error)}; {AGAIN}") from None
    if not reader.schema.equals(schema):
        raise CacheError(f"{path} has other columns than this version writes; {AGAIN}")
    return reader


def _batch(reader: pa.ipc.RecordBatchFileReader, number: int, path: Path) -> pa.RecordBatch:
    try:
        batch = reader.get_batch(number)
        batch.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CacheError(f"{path} is damaged: {_line(error)}; {AGAIN}") from None
    return batch


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
