"""Make a token cache: encode the parts, shuffle them if wanted, check the result and write its manifest.

Every file appears when it is complete, and depends on the plan alone. So a run that was killed anywhere is repeated,
with any number of processes, and goes on with what is there.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...output import OutputError, lock_file
from ..bad_rows import BadRowPolicy
from ..row import Row
from ..row_note import NOTES_FILE, RowNote, kind_of, write_notes
from ..workers import map_in_processes
from .cached_rows import check_cache
from .encoder import Part, RowEncoder, write_part
from .fingerprint import differences
from .finish import finish
from .manifest import FILE, PLAN, Manifest, Plan, read_manifest, read_plan, write_values
from .shards import CacheError, Shard
from .shuffle import buckets, num_buckets, order_of, write_bucket

PART_ROWS = 4096
LOCK = ".lock"
PARTS = "parts"  # folder of the encoded rows before they are shuffled
WAIT_SECONDS, PATIENCE_SECONDS = 0.5, 900.0


@dataclass(frozen=True)
class Work:
    """The processes that make a cache. rank: of num_ranks that share a file system; workers: of this one."""

    num_workers: int = 1
    rank: int = 0
    num_ranks: int = 1
    patience: float = PATIENCE_SECONDS
    progress: Callable[[str, int, int], None] = lambda what, done, total: None


@dataclass(frozen=True)
class CacheRows:
    """The rows of a cache: the different ones with the index of their file, and how the mixture repeats them.

    mixture: row numbers, int64 [rows of the mixture]; None if it is all rows in order. left_out: notes of rows that are
    wrong in their files.
    """

    rows: list[Row]
    files: list[int]
    mixture: np.ndarray | None
    left_out: list[RowNote]


def build(
    folder: Path, plan: Plan, data: CacheRows, encoder: RowEncoder, policy: BadRowPolicy, work: Work
) -> Manifest | None:
    """Make the cache of a plan in a folder; return its manifest, None in a process that only encodes its parts.

    A finished cache is checked, row by row. Raises CacheError if it is damaged, and for a folder with anything else;
    TooManyBadRowsError, and OutputError if another process works on
    the folder.
    """
    claim(folder, plan)
    if work.rank:
        if not (folder / FILE).is_file():
            _encode(folder, plan, data, encoder, policy, work)
        return None
    if (folder / FILE).is_file():
        manifest = read_manifest(folder)
        check_cache(folder, manifest, partial(_mapped, work=work), work.progress)
        _tidy(folder)
        return manifest
    busy = f"another process is making a cache in {folder}: wait for it"
    with lock_file(folder / LOCK, busy):
        _encode(folder, plan, data, encoder, policy, work)
        parts = part_paths(folder, plan)
        _wait_for(parts, work)
        notes = {note.key: note for path in parts for note in _notes_of(path, plan)}
        write_notes(folder / NOTES_FILE, [*data.left_out, *notes.values()])
        check_notes(data.left_out, list(notes.values()), policy, len(data.left_out) + plan.num_rows)
        shards = _shuffle(folder, plan, parts, work)
        manifest = finish(folder, plan, data, parts, shards, partial(_mapped, work=work))
    _tidy(folder)
    return manifest


def claim(folder: Path, plan: Plan) -> None:
    """Make the folder with the plan in it, or check that it is of the same plan. Raises CacheError if it is not."""
    before, now = None, plan.as_dict()
    if folder.exists():
        if folder.is_symlink() or not folder.is_dir():
            raise OutputError(f"{folder} is not a folder: name another one")
        before = read_plan(folder)
        if before is None and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise CacheError(f"{folder} has other content than a token cache: name a new folder")
    if before is None:
        folder.mkdir(parents=True, exist_ok=True)
        write_values(folder / PLAN, now)
        return
    found = differences(_by_file(before), _by_file(now))
    if found:
        raise CacheError(
            f"{folder} has a cache of other data or settings: {'; '.join(found)}. Name another folder, or remove this "
            "one first"
        )


def _by_file(plan: dict[str, Any]) -> dict[str, Any]:
    """Return a plan with its files by name, without the times of their last change."""
    files = [{key: value for key, value in file.items() if key != "mtime_ns"} for file in plan["files"] or ()]
    return {**plan, "files": {str(file.pop("file", "")): file for file in files}}


def part_paths(folder: Path, plan: Plan) -> list[Path]:
    """Return the files of the encoded parts: the shards themselves if nothing is shuffled."""
    count = max(-(-plan.num_rows // plan.part_rows), 1)
    inner, name = (folder, "shard") if plan.shuffle is None else (folder / PARTS, "part")
    return [inner / f"{name}-{number:05d}.arrow" for number in range(count)]


def part_numbers(plan: Plan, part: int) -> np.ndarray:
    """Return the numbers of the rows of a part, in the order of its file."""
    start = part * plan.part_rows
    numbers = np.arange(start, min(start + plan.part_rows, plan.num_rows))
    return numbers if plan.shuffle is None else numbers[order_of(numbers, plan.shuffle)]


def _encode(folder: Path, plan: Plan, data: CacheRows, encoder: RowEncoder, policy: BadRowPolicy, work: Work) -> None:
    """Encode the parts of this rank that are not there, and check all of this rank's rows by the policy."""
    own = list(enumerate(part_paths(folder, plan)))[work.rank :: work.num_ranks]
    notes: dict[tuple, RowNote] = {}
    there = [(number, path) for number, path in own if path.is_file()]
    for _, path in there:
        notes.update({note.key: note for note in _notes_of(path, plan)})
    todo = [(number, path) for number, path in own if not path.is_file()]
    tasks = (_part(plan, data, number, path) for number, path in todo)
    counts = [len(part_numbers(plan, number)) for number, _ in todo]
    total, done = len(data.left_out) + plan.num_rows, 0
    with closing(_mapped(partial(write_part, encoder), tasks, len(todo), work)) as written:
        for found in written:
            notes.update({note.key: note for note in found})
            done += 1
            work.progress("encoding", sum(counts[:done]), sum(counts))
            check_notes(data.left_out, list(notes.values()), policy, total)
    check_notes(data.left_out, list(notes.values()), policy, total)


def check_notes(left_out: list[RowNote], notes: list[RowNote], policy: BadRowPolicy, num_rows: int) -> None:
    """Raise ValueError if a run with this policy would stop because of the rows. notes: of rows with bad content."""
    if notes and not policy.is_content_skipped:
        first = min(notes, key=lambda note: (note.file, note.number))
        raise ValueError(f"{first.where}: {first.reason} (on_bad_sample is raise)")
    policy.check([*left_out, *notes], num_rows, notes)


def _notes_of(path: Path, plan: Plan) -> Iterator[RowNote]:
    """Yield notes of the skipped rows of an encoded part."""
    for record in Shard(path, plan.owner).skipped():
        line = None if record.line < 0 else record.line
        where = plan.files[record.file]["file"], record.row, line, json.loads(record.id)
        yield RowNote(plan.split, *where, kind_of(record.kind), record.reason)


def _part(plan: Plan, data: CacheRows, part: int, path: Path) -> Part:
    numbers = tuple(map(int, part_numbers(plan, part)))
    files, rows = ([column[number] for number in numbers] for column in (data.files, data.rows))
    return Part(path, plan.owner, plan.split, numbers, tuple(files), tuple(rows))


def _shuffle(folder: Path, plan: Plan, parts: list[Path], work: Work) -> list[Path]:
    """Write the shards that are not there; return all of them."""
    if plan.shuffle is None:
        return parts
    count = num_buckets(plan.num_rows, sum(path.stat().st_size for path in parts), plan.part_rows)
    shards = [folder / f"shard-{number:05d}.arrow" for number in range(count)]
    numbers = [part_numbers(plan, part) for part in range(len(parts))]
    todo = [bucket for bucket in buckets(parts, numbers, shards, plan.shuffle, plan.owner) if not bucket.path.is_file()]
    with closing(_mapped(write_bucket, todo, len(todo), work)) as written:
        for done, _ in enumerate(written, start=1):
            work.progress("shuffling", done, len(todo))
    return shards


def _wait_for(parts: list[Path], work: Work) -> None:
    """Wait for the parts of other ranks. Raises CacheError if none appears for as long as the patience lasts."""
    missing, since = [path for path in parts if not path.is_file()], time.monotonic()
    while missing:
        if time.monotonic() - since > work.patience:
            ranks = sorted({parts.index(path) % work.num_ranks for path in missing})
            raise CacheError(
                f"missing parts: {len(missing)}, of the ranks {', '.join(map(str, ranks))}, and none was written "
                f"for {work.patience:.0f} s: run these ranks again, and then rank 0"
            )
        time.sleep(WAIT_SECONDS)
        left = [path for path in missing if not path.is_file()]
        since = time.monotonic() if len(left) < len(missing) else since
        missing = left


def _mapped(function: Callable[[Any], Any], items: Iterable[Any], count: int, work: Work) -> Iterator[Any]:
    """Yield the results for items in order, computed in processes if there is more than one item."""
    num_processes = min(work.num_workers, count)
    if num_processes <= 1:
        yield from map(function, items)
        return
    yield from map_in_processes(function, items, num_processes=num_processes, method="spawn")


def _tidy(folder: Path) -> None:
    """Remove what only an unfinished cache needs."""
    for name in (PLAN, LOCK):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
