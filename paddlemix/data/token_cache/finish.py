"""Check the shards of a cache, row by row, and write its index and its manifest."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..row_note import SKIPPED, kind_of
from .manifest import FILE, INDEX, MIXTURE, Manifest, Plan, write_values
from .shards import AGAIN, CacheError, Shard, write_columns

INDEX_DTYPES = {"shard": np.int32, "row": np.int32, "num_kept": np.int32, "num_images": np.int32, "file": np.int32}
MIXTURE_DTYPES = {"number": np.int64}
SUMS = 1 << 64
Mapped = Callable[..., Iterator[Any]]  # build._mapped


@dataclass(frozen=True)
class ShardFacts:
    """What was read from a shard. numbers, num_kept, num_images, files: of its rows. checksum: the sum of theirs."""

    numbers: np.ndarray
    num_kept: np.ndarray
    num_images: np.ndarray
    files: np.ndarray
    checksum: int
    totals: Counter


def read_shard(owner: str, path: Path) -> ShardFacts:
    """Read all rows of a shard of the plan with an owner. Raises CacheError for a row that is not as it was written."""
    rows, checksum, totals = [], 0, Counter()
    for record, own in Shard(path, owner).records():
        rows.append((record.number, record.num_kept, len(record.sources), record.file))
        checksum += own
        totals["num_tokens"] += record.num_kept
        totals["num_trained"] += record.num_trained
        totals["num_images"] += len(record.sources)
        totals["num_cut"] += record.num_dropped_turns > 0
        totals[kind_of(record.kind)] += 1
    columns = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    return ShardFacts(*columns, checksum % SUMS, totals)


def sum_of_checksums(owner: str, paths: list[Path]) -> int:
    """Return the sum of the stored checksums of the encoded parts, whatever their order, modulo 2^64."""
    total = 0
    for path in paths:
        for batch in Shard(path, owner).batches():
            total += sum(batch.column("checksum").to_pylist())
    return total % SUMS


def finish(folder: Path, plan: Plan, data, parts: list[Path], shards: list[Path], mapped: Mapped) -> Manifest:
    """Write the index and the manifest of a cache whose shards are there.

    data: the `build.CacheRows`. Raises CacheError if a row is missing, is there twice, or has changed since it was
    encoded.
    """
    before = sum_of_checksums(plan.owner, parts)
    with closing(mapped(partial(read_shard, plan.owner), shards, len(shards))) as read:
        found = list(read)
    after = sum(facts.checksum for facts in found) % SUMS
    numbers = np.concatenate([facts.numbers for facts in found])
    if before != after or not np.array_equal(np.sort(numbers), np.arange(plan.num_rows)):
        raise CacheError(
            f"{folder}: its shards have {len(numbers):,} rows, expected {plan.num_rows:,}, each once and as it was "
            f"encoded; {AGAIN}"
        )
    columns = _index(found, numbers)
    write_columns(folder / INDEX, columns)
    if data.mixture is not None:
        write_columns(folder / MIXTURE, {"number": data.mixture})
    manifest = Manifest(
        plan,
        tuple(_shard(path, facts) for path, facts in zip(shards, found, strict=True)),
        digest_of(folder / INDEX),
        None if data.mixture is None else digest_of(folder / MIXTURE),
        f"{before:016x}",
        f"{after:016x}",
        _totals(found),
        tuple(_as_values(note) for note in data.left_out),
    )
    write_values(folder / FILE, manifest.as_dict())
    return manifest


def _index(found: list[ShardFacts], numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Return shard, row in it, tokens and images of each row, in the order of the row numbers."""
    order = np.argsort(numbers, kind="stable")
    columns = {
        "shard": np.repeat(np.arange(len(found)), [len(facts.numbers) for facts in found]),
        "row": np.concatenate([np.arange(len(facts.numbers)) for facts in found]),
        "num_kept": np.concatenate([facts.num_kept for facts in found]),
        "num_images": np.concatenate([facts.num_images for facts in found]),
        "file": np.concatenate([facts.files for facts in found]),
    }
    return {name: columns[name][order].astype(dtype) for name, dtype in INDEX_DTYPES.items()}


def _shard(path: Path, facts: ShardFacts) -> dict[str, Any]:
    return {"file": path.name, "rows": len(facts.numbers), "bytes": path.stat().st_size}


def _totals(found: list[ShardFacts]) -> dict[str, Any]:
    totals = sum((facts.totals for facts in found), Counter())
    counts = {name: totals[name] for name in ("num_tokens", "num_trained", "num_images", "num_cut")}
    return {**counts, "skipped": {kind: totals[kind] for kind in SKIPPED if totals[kind]}}


def _as_values(note) -> dict[str, Any]:
    return {name: value for name, value in vars(note).items() if name != "split"}


def digest_of(path: Path) -> str:
    """Return a hash of a file."""
    with path.open("rb") as file:
        digest = hashlib.blake2b(digest_size=16)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
