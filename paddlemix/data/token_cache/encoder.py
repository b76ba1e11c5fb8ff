"""Encode rows to records: tokens, and the names, sizes and, if wanted, the files of their images."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...image.errors import ImageError
from ...image.fetch import cache_path
from ...image.load import SCHEME, describe
from ..encode import find_image
from ..measure import UNREADABLE, Measure, RowFacts, Tokens
from ..row import Row
from ..row_note import RowNote, kind_of
from .records import UNKNOWN, Record, collapse
from .shards import write_records

EMPTY = np.zeros(0, dtype=np.int32)
MAX_FILE = 1 << 30  # bytes of an image file that goes along


@dataclass(frozen=True)
class Part:
    """Rows that one process encodes to one file. numbers, files, rows: of each row, in the order of the file.

    owner: of the plan, see `manifest.Plan`.
    """

    path: Path
    owner: str
    split: str
    numbers: tuple[int, ...]
    files: tuple[int, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class RowEncoder:
    """Encodes rows as training would, without decoding their images. has_images: the records get the images' files."""

    measure: Measure
    has_images: bool = False

    def record(self, row: Row, number: int, file: int, sizes: dict[str, Any]) -> Record:
        """Encode one row. sizes: as in `Measure.row`."""
        facts, tokens = self.measure.tokens(row, sizes)
        contents: tuple[bytes, ...] = ()
        if tokens is not None and self.has_images:
            used = row.conversation.images[: len(tokens.image_tokens)]
            try:
                contents = tuple(_content(source, row.folders) for source in used)
            except (ImageError, OSError) as error:
                facts, tokens = replace(facts, kind=UNREADABLE, reason=str(error), num_kept=0, num_trained=0), None
        return _record(row, number, file, facts, tokens, contents)


def _record(
    row: Row, number: int, file: int, facts: RowFacts, tokens: Tokens | None, contents: tuple[bytes, ...]
) -> Record:
    ids, trained = (EMPTY, EMPTY) if tokens is None else collapse(tokens.ids, tokens.is_trained, tokens.image_tokens)
    return Record(
        number=number,
        file=file,
        row=row.number,
        line=UNKNOWN if row.line is None else row.line,
        id=json.dumps(row.id),
        format=row.format,
        token_ids=ids,
        trained=trained,
        image_tokens=np.array([] if tokens is None else tokens.image_tokens, dtype=np.int32),
        sources=tuple(map(str, row.conversation.images)),
        sizes=np.array(facts.sizes, dtype=np.int32).reshape(-1),
        contents=contents,
        length=UNKNOWN if facts.length is None else facts.length,
        num_kept=facts.num_kept,
        num_trained=facts.num_trained,
        num_dropped_turns=facts.num_dropped_turns,
        num_missing=facts.num_missing,
        num_unreadable=facts.num_unreadable,
        kind=facts.kind or "",
        reason=facts.reason.encode("utf-8", "backslashreplace").decode(),
        digest=facts.digest,
    )


def _content(source: str, folders: Sequence[str]) -> bytes:
    """Return the bytes of an image's file, empty for a data: URI, which contains them."""
    if source[:5].lower() == "data:":
        return b""
    located = find_image(source, folders)
    path = cache_path(located, None) if SCHEME.match(located) else Path(os.path.expanduser(located))
    if path.stat().st_size > MAX_FILE:
        raise ImageError(f"{describe(source)} has more than {MAX_FILE:,} bytes, too many to go along")
    return path.read_bytes()


def write_part(encoder: RowEncoder, part: Part) -> list[RowNote]:
    """Encode a part to its file; return notes of its rows that are skipped because of their content."""
    notes: list[RowNote] = []

    def records() -> Iterator[Record]:
        sizes: dict[str, Any] = {}
        for number, file, row in zip(part.numbers, part.files, part.rows, strict=True):
            record = encoder.record(row, number, file, sizes)
            if record.kind:
                notes.append(RowNote.of(row, part.split, kind_of(record.kind), record.reason))
            yield record

    write_records(part.path, records(), part.owner)
    return notes
