"""Measure what training would make of a row: images are opened, but no tiles are made."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..conversation.messages import Conversation
from ..conversation.templates import ChatTemplate
from ..image.anyres import num_image_tokens
from ..image.errors import ImageError, MissingImageError
from ..image.load import load_image, read_image_size
from ..image.spec import ImageSpec
from .encode import SampleTooLongError, find_image, tokenize_to_fit
from .row import Row
from .row_note import TOO_LONG
from .workers import map_in_processes

CHUNK = 64  # rows that a process gets at once
MIN_ROWS_TO_SHARE = 512  # for fewer rows, starting processes takes longer than the work
MISSING, UNREADABLE = "missing_image", "unreadable_image"


@dataclass(frozen=True)
class RowFacts:
    """The measurements of one row.

    length: tokens, images included, before cutting; None if an image cannot be opened. num_kept, num_trained: tokens
    that are left, and trained, after cutting; 0 for a skipped row. sizes: (width, height) px of the images that can be
    opened. kind, reason: why the row is skipped, as in `row_note.RowNote`; None and "" if it is not. digest: equal for
    rows with the same text about the same images.
    """

    length: int | None
    num_kept: int
    num_trained: int
    num_dropped_turns: int
    sizes: tuple[tuple[int, int], ...]
    num_missing: int
    num_unreadable: int
    kind: str | None
    reason: str
    digest: bytes


@dataclass(frozen=True)
class Tokens:
    """The tokens of a row after cutting: ids, which of them are trained, and the number of each kept image's."""

    ids: list[int]
    is_trained: list[bool]
    image_tokens: list[int]


@dataclass(frozen=True)
class Measure:
    """Measures rows as `encode.encode_turns` would encode them.

    is_thorough: decode images completely, which finds damaged ones, instead of only reading their size.
    """

    tokenizer: Any
    template: ChatTemplate
    spec: ImageSpec
    max_length: int | None
    is_thorough: bool = True

    def row(self, row: Row, sizes: dict[str, Any]) -> RowFacts:
        """Measure one row. sizes: a cache from an image's path to its size or error, which is added to."""
        if row.encoded is not None:
            return row.encoded.facts(row.folders, sizes, is_thorough=self.is_thorough)
        return self.tokens(row, sizes)[0]

    def tokens(self, row: Row, sizes: dict[str, Any]) -> tuple[RowFacts, Tokens | None]:
        """Measure one row and return the tokens that were counted, None for a row that is skipped."""
        sources = [_located(source, row.folders) for source in row.conversation.images]
        found = [_size(source, sizes, self.is_thorough) for source in sources]
        facts = {**_image_facts(found), "digest": _digest(row.conversation, sources)}
        failure = next((size for size in found if isinstance(size, ImageError)), None)
        if failure is not None:
            kind = MISSING if isinstance(failure, MissingImageError) else UNREADABLE
            return RowFacts(None, 0, 0, 0, kind=kind, reason=str(failure), **facts), None
        return self._tokens(row.conversation, [num_image_tokens(size, self.spec) for size in found], facts)

    def _tokens(self, conversation: Conversation, counts: Sequence[int], facts: dict) -> tuple[RowFacts, Tokens | None]:
        tokenize = partial(tokenize_to_fit, tokenizer=self.tokenizer, template=self.template)
        kept, ids, is_trained, num_dropped = tokenize(conversation, counts, max_length=None)
        length = len(ids)
        if self.max_length is not None and length > self.max_length:
            try:
                kept, ids, is_trained, num_dropped = tokenize(conversation, counts, max_length=self.max_length)
            except SampleTooLongError as error:
                return RowFacts(length, 0, 0, 0, kind=TOO_LONG, reason=str(error), **facts), None
        if not any(is_trained):
            reason = "no token of the row is trained"
            return RowFacts(length, 0, 0, 0, kind="nothing_trained", reason=reason, **facts), None
        tokens = Tokens(ids, is_trained, list(counts[: len(kept.images)]))
        return RowFacts(length, len(ids), sum(is_trained), num_dropped, kind=None, reason="", **facts), tokens


def _image_facts(found: Sequence[tuple[int, int] | ImageError]) -> dict[str, Any]:
    """Return the sizes of the images that can be opened and the numbers of the others."""
    failures = [size for size in found if isinstance(size, ImageError)]
    num_missing = sum(isinstance(failure, MissingImageError) for failure in failures)
    sizes = tuple(size for size in found if not isinstance(size, ImageError))
    return {"sizes": sizes, "num_missing": num_missing, "num_unreadable": len(failures) - num_missing}


def measure_rows(rows: Sequence[Row], measure: Measure, *, num_workers: int = 1) -> Iterator[RowFacts]:
    """Yield the measurements of each row, in order, from several processes if that is faster."""
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    if num_workers <= 1 or len(rows) < MIN_ROWS_TO_SHARE:
        sizes: dict[str, Any] = {}
        for row in rows:
            yield measure.row(row, sizes)
        return
    with closing(
        map_in_processes(partial(_measure_chunk, measure), chunks, num_processes=num_workers, method="spawn")
    ) as measured:
        for facts in measured:
            yield from facts


def default_workers() -> int:
    """Return the default number of processes: one per core, at most eight."""
    return min(8, os.cpu_count() or 1)


def _measure_chunk(measure: Measure, rows: Sequence[Row]) -> list[RowFacts]:
    sizes: dict[str, Any] = {}
    return [measure.row(row, sizes) for row in rows]


def _located(source: Any, folders: Sequence[str]) -> Any:
    """Return the path of an image, or the error if it is not found."""
    try:
        return find_image(source, folders)
    except ImageError as error:
        return error


def _size(source: Any, sizes: dict[str, Any], is_thorough: bool) -> tuple[int, int] | ImageError:
    """Return the (width, height) px of an image, upright, or the error if it cannot be read."""
    if isinstance(source, ImageError):
        return source
    if source not in sizes:
        try:
            sizes[source] = load_image(source).size if is_thorough else read_image_size(source)
        except ImageError as error:
            sizes[source] = error
    return sizes[source]


def _digest(conversation: Conversation, sources: Sequence[Any]) -> bytes:
    turns = [(message.role, message.pieces, message.is_trained) for message in conversation.messages]
    return hashlib.blake2b(repr((turns, [str(source) for source in sources])).encode(), digest_size=16).digest()
