"""Shuffle rows on disk with bounded memory: an external sort by a hash of seed and row number.

The order depends on seed and row numbers alone, not on processes. The rows of a part are written in the order of their
keys; a bucket is a range of keys, so it takes one run of rows from each part. One bucket is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from .records import BATCH_ROWS
from .shards import Shard, write_shard

BUCKET_BYTES = 256 << 20
KEYS = 1 << 64


def keys_of(numbers: np.ndarray, seed: int) -> np.ndarray:
    """Return a pseudorandom key for each row number, uint64 [n] (splitmix64, Steele et al. 2014)."""
    start = _mixed(np.array([seed], dtype=np.uint64))
    return _mixed(_mixed(np.asarray(numbers, dtype=np.uint64)) ^ start)


def _mixed(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def order_of(numbers: np.ndarray, seed: int) -> np.ndarray:
    """Return the positions of the numbers in the order of their keys."""
    return np.lexsort([numbers, keys_of(numbers, seed)])


def num_buckets(num_rows: int, num_bytes: int, bucket_rows: int) -> int:
    """Return the number of buckets for which none has many more rows or bytes than a shard may have."""
    return max(-(-num_rows // bucket_rows), -(-num_bytes // BUCKET_BYTES), 1)


def bucket_edges(numbers: np.ndarray, seed: int, count: int) -> np.ndarray:
    """Return where each of count buckets starts in a part that is sorted by keys, and its end, int64 [count + 1]."""
    edges = np.array([index * KEYS // count for index in range(count)], dtype=np.uint64)
    starts = np.searchsorted(np.sort(keys_of(numbers, seed)), edges, side="left")
    return np.append(starts, len(numbers))


@dataclass(frozen=True)
class Bucket:
    """The rows of a range of keys. runs: path, first row and end of its rows in each part. owner: of their plan."""

    path: Path
    runs: tuple[tuple[str, int, int], ...]
    seed: int
    owner: str

    @property
    def num_rows(self) -> int:
        return sum(stop - start for _, start, stop in self.runs)


def buckets(
    parts: Sequence[Path], numbers: Sequence[np.ndarray], shards: Sequence[Path], seed: int, owner: str
) -> list[Bucket]:
    """Return the buckets of all parts, one for each shard. numbers: of the rows of each part, in any order."""
    edges = [bucket_edges(own, seed, len(shards)) for own in numbers]
    found = []
    for index, path in enumerate(shards):
        runs = ((str(part), int(own[index]), int(own[index + 1])) for part, own in zip(parts, edges, strict=True))
        found.append(Bucket(path, tuple(run for run in runs if run[1] < run[2]), seed, owner))
    return found


def write_bucket(bucket: Bucket) -> int:
    """Write the rows of a bucket to its shard, in the order of their keys; return how many there are."""
    batches = [
        batch for path, start, stop in bucket.runs for batch in Shard(Path(path), bucket.owner).rows(start, stop)
    ]
    if not batches:
        write_shard(bucket.path, (), bucket.owner)
        return 0
    table = pa.Table.from_batches(batches)
    order = order_of(table.column("number").to_numpy(), bucket.seed)
    table = table.take(pa.array(order)).combine_chunks()
    write_shard(bucket.path, table.to_batches(max_chunksize=BATCH_ROWS), bucket.owner)
    return len(order)
