"""One row of a token cache as a record of an Arrow file, with a checksum of all that it says."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa

from ...constants import IGNORE_INDEX, IMAGE_TOKEN_ID

BATCH_ROWS = 64  # rows of a record batch: the least that is read and checked at once
UNKNOWN = -1  # a length that could not be counted, a row that is not a line

_NUMBERS = pa.list_(pa.int32())
# The columns. Token ids have one placeholder for each image; image_tokens are its repeats. trained: start and end of
# each run of trained tokens, in these ids. sizes: width and height px of each image. contents: the bytes of the images'
# files, empty for an image that is read from its source.
SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("file", pa.int32()),
        ("row", pa.int64()),
        ("line", pa.int64()),
        ("id", pa.string()),
        ("format", pa.string()),
        ("token_ids", _NUMBERS),
        ("trained", _NUMBERS),
        ("image_tokens", _NUMBERS),
        ("sources", pa.list_(pa.string())),
        ("sizes", _NUMBERS),
        ("contents", pa.list_(pa.binary())),
        ("length", pa.int64()),
        ("num_kept", pa.int64()),
        ("num_trained", pa.int64()),
        ("num_dropped_turns", pa.int32()),
        ("num_missing", pa.int32()),
        ("num_unreadable", pa.int32()),
        ("kind", pa.string()),
        ("reason", pa.string()),
        ("digest", pa.binary()),
        ("checksum", pa.uint64()),
    ]
)
INTEGERS = (
    "number",
    "file",
    "row",
    "line",
    "length",
    "num_kept",
    "num_trained",
    "num_dropped_turns",
    "num_missing",
    "num_unreadable",
)
ARRAYS = ("token_ids", "trained", "image_tokens", "sizes")


@dataclass(frozen=True)
class Record:
    """A row of a token cache. See SCHEMA for the columns, and `measure.RowFacts` for the measurements.

    number: of the row among the different rows of the mixture, from 0. file: index in the manifest. row, line: from 1,
    line UNKNOWN if rows are not lines. id: as JSON. kind, reason: why the row is skipped, "" if it is not.
    """

    number: int
    file: int
    row: int
    line: int
    id: str
    format: str
    token_ids: np.ndarray
    trained: np.ndarray
    image_tokens: np.ndarray
    sources: tuple[str, ...]
    sizes: np.ndarray
    contents: tuple[bytes, ...]
    length: int
    num_kept: int
    num_trained: int
    num_dropped_turns: int
    num_missing: int
    num_unreadable: int
    kind: str
    reason: str
    digest: bytes

    @property
    def checksum(self) -> int:
        """A hash of all fields, 64 bits."""
        numbers = struct.pack(f"<{len(INTEGERS)}q", *map(vars(self).__getitem__, INTEGERS))
        arrays = [vars(self)[name].astype("<i4", copy=False).tobytes() for name in ARRAYS]
        texts = [text.encode() for text in (self.id, self.format, self.kind, self.reason, *self.sources)]
        parts = [numbers, *arrays, *texts, self.digest, *self.contents]
        lengths = struct.pack(f"<{len(parts)}q", *map(len, parts))
        return int.from_bytes(hashlib.blake2b(lengths + b"".join(parts), digest_size=8).digest(), "little")

    def problem(self, vocab_size: int, max_length: int) -> str | None:
        """Return what is wrong with the tokens or the images of a record, None for a record of a row."""
        is_image = self.token_ids == IMAGE_TOKEN_ID
        texts = self.token_ids[~is_image]
        num_images, num_tokens = len(self.image_tokens), len(texts) + int(self.image_tokens.astype(np.int64).sum())
        if len(texts) and not 0 <= texts.min() <= texts.max() < vocab_size:
            return f"token ids from {texts.min()} to {texts.max()}, expected 0 to {vocab_size - 1}"
        if num_tokens != self.num_kept or num_tokens > max_length or (num_images and self.image_tokens.min() < 1):
            return f"{num_tokens} tokens, expected {self.num_kept}, at most {max_length}"
        is_placed = is_image.sum() == num_images <= len(self.sources)
        has_sizes = bool(self.kind) or len(self.sizes) == 2 * len(self.sources)
        if not is_placed or not has_sizes or len(self.contents) not in (0, num_images) or len(self.trained) % 2:
            return f"{is_image.sum()} placeholders for {num_images} of {len(self.sources)} images, with other counts"
        return None

    def tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """Return token ids and labels, int64 [T], with the placeholders repeated."""
        ids = self.token_ids.astype(np.int64)
        is_trained = np.zeros(len(ids), dtype=bool)
        for start, end in self.trained.reshape(-1, 2):
            is_trained[start:end] = True
        repeats = np.ones(len(ids), dtype=np.int64)
        repeats[ids == IMAGE_TOKEN_ID] = self.image_tokens
        ids, is_trained = np.repeat(ids, repeats), np.repeat(is_trained, repeats)
        return ids, np.where(is_trained, ids, IGNORE_INDEX)


def collapse(
    token_ids: Sequence[int], is_trained: Sequence[bool], image_tokens: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return ids with one placeholder for each image, and the runs of trained tokens in them, both int32.

    image_tokens: the number of placeholders of each image, in order. Two images may follow each other directly.
    """
    ids = np.asarray(token_ids, dtype=np.int32)
    places = np.flatnonzero(ids == IMAGE_TOKEN_ID)
    firsts = np.cumsum([0, *image_tokens])[:-1] if len(image_tokens) else np.zeros(0, dtype=np.int64)
    is_kept = np.ones(len(ids), dtype=bool)
    is_kept[places] = False
    is_kept[places[firsts]] = True
    steps = np.diff(np.concatenate([[0], np.asarray(is_trained, dtype=np.int8)[is_kept], [0]]))
    runs = np.stack([np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)], axis=1)
    return ids[is_kept], runs.astype(np.int32).reshape(-1)


def batch_of(records: Sequence[Record]) -> pa.RecordBatch:
    """Return records as a batch of an Arrow file."""
    columns = {field.name: [getattr(record, field.name) for record in records] for field in fields(Record)}
    columns["checksum"] = [record.checksum for record in records]
    return pa.record_batch([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def record_at(batch: pa.RecordBatch, index: int) -> tuple[Record, int]:
    """Return a record of a batch that was validated, and the checksum that is stored with it."""
    values = {}
    for position, name in enumerate(SCHEMA.names):
        cell = batch.column(position)[index]
        if name in ARRAYS:
            values[name] = cell.values.to_numpy(zero_copy_only=False)
        elif name in ("sources", "contents"):
            values[name] = tuple(cell.as_py())
        else:
            values[name] = cell.as_py()
    stored = values.pop("checksum")
    return Record(**values), stored
