"""Read the rows of a finished token cache, one at a time, mapped from the disk."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...conversation.messages import Conversation
from ...image.errors import ImageError, MissingImageError
from ...image.load import load_image, read_image_size
from ...image.preprocess import preprocess
from ...image.spec import ImageSpec
from ..encode import find_image
from ..measure import MISSING, UNREADABLE, RowFacts
from ..row import Row
from ..row_note import RowNote, kind_of
from ..row_sequence import StoredRows
from ..sample import Sample
from .fingerprint import differences, has_changed
from .finish import INDEX_DTYPES, MIXTURE_DTYPES, SUMS, digest_of, read_shard
from .manifest import FILE, INDEX, MIXTURE, Manifest, read_manifest
from .records import Record
from .shards import AGAIN, COMMAND, CacheError, ShardFiles, read_columns


def open_cache(
    folder: str | Path,
    split: str,
    *,
    encoding: dict[str, Any] | None = None,
    image_folder: str | None = None,
    is_in_order: bool = False,
) -> tuple[StoredRows, list[RowNote]]:
    """Return the rows of a cache, and notes of the rows that are wrong in the raw files.

    encoding: the `fingerprint.encoding_facts` of the run; None: not compared. image_folder: where to look for images
    first. Raises CacheError for a cache that is damaged, not finished, or of other data or settings.
    """
    folder = Path(folder).absolute()
    manifest = read_manifest(folder)
    check_fingerprint(folder, manifest, encoding)
    reader = CacheReader(folder, manifest, image_folder)
    index, plan = reader.index, manifest.plan
    starts = np.cumsum([0, *(shard["rows"] for shard in manifest.shards)])[:-1]
    stored = StoredRows(
        read=reader.row,
        numbers=reader.mixture(),
        all_lengths=index["num_kept"],
        num_images=index["num_images"],
        files=index["file"],
        positions=starts[index["shard"]] + index["row"],
        data_files=plan.files,
        has_images=plan.has_images,
        is_in_order=is_in_order,
    )
    return stored, manifest.notes(split)


def check_fingerprint(folder: Path, manifest: Manifest, encoding: dict[str, Any] | None) -> None:
    """Raise CacheError, with what differs, for a cache of other settings or of data files that have changed since."""
    found = [] if encoding is None else differences(manifest.plan.encoding, encoding)
    if found:
        raise CacheError(
            f"the token cache {folder} was made for another run: {'; '.join(found)}. Make one for it with {COMMAND}"
        )
    changed = next((file["file"] for file in manifest.plan.files if has_changed(file)), None)
    if changed is not None:
        raise CacheError(f"{changed} has changed since the token cache {folder} was made of it; {AGAIN}")


def check_cache(
    folder: Path,
    manifest: Manifest,
    mapped: Callable[..., Iterator[Any]],
    progress: Callable[[str, int, int], None],
) -> None:
    """Read a whole cache. mapped: build._mapped. Raises CacheError if a file is missing or a row has changed."""
    CacheReader(folder, manifest).mixture()
    paths = [folder / shard["file"] for shard in manifest.shards]
    total = 0
    with closing(mapped(functools.partial(read_shard, manifest.plan.owner), paths, len(paths))) as read:
        for done, facts in enumerate(read, start=1):
            total += facts.checksum
            progress("checking", done, len(paths))
    if f"{total % SUMS:016x}" != manifest.checksum_after:
        raise CacheError(f"{folder} is damaged: its rows are not those that were encoded; {AGAIN}")


class CacheReader:
    """An open cache. Can be pickled; another process opens it anew."""

    def __init__(self, folder: Path, manifest: Manifest, image_folder: str | None = None):
        self.folder = folder
        self.manifest = manifest
        self.image_folder = image_folder
        self.vocab_size, self.max_length = _limits(folder, manifest.plan.encoding)
        self.files = ShardFiles(folder, tuple(shard["file"] for shard in manifest.shards), manifest.plan.owner)
        self.index = read_columns(self._checked(INDEX, manifest.index_digest), INDEX_DTYPES)
        self._check_shards()

    def __reduce__(self):
        return _reader, (str(self.folder), self.image_folder, self.manifest.index_digest)

    @functools.cached_property
    def spec(self) -> ImageSpec:
        return ImageSpec(**self.manifest.plan.encoding["image"])

    def mixture(self) -> np.ndarray:
        """Return the numbers of the rows of the mixture, int64 [rows]. Raises CacheError."""
        plan = self.manifest.plan
        if self.manifest.mixture_digest is None:
            return np.arange(plan.num_rows)
        path = self._checked(MIXTURE, self.manifest.mixture_digest)
        numbers = read_columns(path, MIXTURE_DTYPES)["number"]
        if len(numbers) != plan.num_in_mixture or (
            len(numbers) and not 0 <= numbers.min() <= numbers.max() < plan.num_rows
        ):
            raise CacheError(f"{path} is damaged: it names rows that are not in the cache; {AGAIN}")
        return numbers

    def record(self, number: int) -> Record:
        """Return the record of a row. Raises CacheError if it is damaged."""
        record = self.files.record(int(self.index["shard"][number]), int(self.index["row"][number]))
        if record.number != number or not 0 <= record.file < len(self.manifest.plan.files):
            raise CacheError(f"{self.folder} is damaged: row {number} is not where its index says; {AGAIN}")
        problem = record.problem(self.vocab_size, self.max_length)
        if problem:
            raise CacheError(f"{self.folder} is damaged: row {number} has {problem}; {AGAIN}")
        return record

    def row(self, number: int) -> Row:
        """Return a row, whose conversation has only its images."""
        record = self.record(number)
        file = self.manifest.plan.files[record.file]
        folders = tuple(dict.fromkeys(filter(None, (self.image_folder, *file["folders"]))))
        line = None if record.line < 0 else record.line
        conversation, row_id = Conversation((), record.sources), json.loads(record.id)
        encoded = CachedRow(self, number)
        return Row(conversation, file["file"], record.row, line, folders, row_id, record.format, encoded)

    def _checked(self, name: str, digest: str) -> Path:
        path = self.folder / name
        if not path.is_file() or digest_of(path) != digest:
            raise CacheError(f"{path} is missing or is not as it was written; {AGAIN}")
        return path

    def _check_shards(self) -> None:
        """Raise CacheError for shards that are missing or cut off, and for places outside of them."""
        shards = self.manifest.shards
        for shard in shards:
            path = self.folder / shard["file"]
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise CacheError(f"{path} is missing or cut off: expected {shard['bytes']:,} bytes; {AGAIN}")
        shard, row = self.index["shard"], self.index["row"]
        num_rows = np.array([shard["rows"] for shard in shards])
        is_inside = (shard >= 0) & (shard < len(shards)) & (row >= 0)
        is_inside &= row < num_rows[np.where(is_inside, shard, 0)]
        if len(shard) != self.manifest.plan.num_rows or not is_inside.all():
            raise CacheError(f"{self.folder / INDEX} is damaged: it has other rows than the manifest; {AGAIN}")


def _limits(folder: Path, encoding: dict[str, Any]) -> tuple[int, int]:
    """Return vocabulary size and maximum length of the rows. Raises CacheError for other values."""
    tokenizer = encoding.get("tokenizer")
    limits = tokenizer.get("vocab_size") if isinstance(tokenizer, dict) else None, encoding.get("max_length")
    if not all(type(limit) is int and limit > 0 for limit in limits):
        raise CacheError(f"{folder / FILE}: encoding states no vocab_size and max_length; {AGAIN}")
    return limits


@functools.lru_cache(maxsize=4)
def _reader(folder: str, image_folder: str | None, index_digest: str) -> CacheReader:
    """Return the reader of a cache in another process, once for all of its rows."""
    reader = CacheReader(Path(folder), read_manifest(Path(folder)), image_folder)
    if reader.manifest.index_digest != index_digest:
        raise CacheError(f"the token cache {folder} was made again while it was read: start again")
    return reader


@dataclass(frozen=True)
class CachedRow:
    """A row of a cache, see `row.Encoded`."""

    reader: CacheReader
    number: int

    def failure(self) -> tuple[str, str] | None:
        record = self.reader.record(self.number)
        return (kind_of(record.kind), record.reason) if record.kind else None

    def sample(self, folders: Sequence[str]) -> tuple[Sample, int]:
        """See Encoded. Images of dropped turns are not loaded. Raises CacheError for an image of another size."""
        record = self.reader.record(self.number)
        token_ids, labels = record.tokens()
        tiles = []
        for index in range(len(record.image_tokens)):
            image = load_image(_source(record, index, folders))
            _check_size(record, index, image.size)
            tiles.append(preprocess(image, self.reader.spec))
        return Sample(token_ids, labels, tuple(tiles)), record.num_dropped_turns

    def facts(self, folders: Sequence[str], sizes: dict[str, Any], *, is_thorough: bool) -> RowFacts:
        record = self.reader.record(self.number)
        facts = _facts(record)
        if facts.kind is not None:
            return facts
        failures = []
        for index in range(len(record.image_tokens)):
            try:
                _check_size(record, index, _size(_source(record, index, folders), sizes, is_thorough))
            except ImageError as error:
                failures.append(error)
        if not failures:
            return facts
        num_missing = sum(isinstance(failure, MissingImageError) for failure in failures)
        kind = MISSING if isinstance(failures[0], MissingImageError) else UNREADABLE
        return replace(
            facts,
            length=None,
            num_kept=0,
            num_trained=0,
            kind=kind,
            reason=str(failures[0]),
            num_missing=num_missing,
            num_unreadable=len(failures) - num_missing,
        )


def _facts(record: Record) -> RowFacts:
    return RowFacts(
        length=None if record.length < 0 else record.length,
        num_kept=record.num_kept,
        num_trained=record.num_trained,
        num_dropped_turns=record.num_dropped_turns,
        sizes=tuple((int(width), int(height)) for width, height in record.sizes.reshape(-1, 2)),
        num_missing=record.num_missing,
        num_unreadable=record.num_unreadable,
        kind=kind_of(record.kind) or None,
        reason=record.reason,
        digest=record.digest,
    )


def _source(record: Record, index: int, folders: Sequence[str]) -> Any:
    """Return what to load an image from: its bytes in the cache, or its file. Raises MissingImageError."""
    if record.contents and record.contents[index]:
        return record.contents[index]
    return find_image(record.sources[index], folders)


def _size(source: Any, sizes: dict[str, Any], is_thorough: bool) -> tuple[int, int]:
    """Return the (width, height) px of an image. Raises ImageError, the same one for each row with the image."""
    if source not in sizes:
        try:
            sizes[source] = load_image(source).size if is_thorough else read_image_size(source)
        except ImageError as error:
            sizes[source] = error
    if isinstance(sizes[source], ImageError):
        raise sizes[source]
    return sizes[source]


def _check_size(record: Record, index: int, size: tuple[int, int]) -> None:
    """Raise CacheError for an image that is not the one whose places were counted."""
    width, height = record.sizes.reshape(-1, 2)[index]
    if (width, height) != size:
        raise CacheError(
            f"image {record.sources[index]!r} is {size[0]}x{size[1]}, and was {width}x{height} when the token cache "
            f"was made; {AGAIN}"
        )
