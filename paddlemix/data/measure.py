"""What training would make of a row, in numbers: its pictures are opened, but no tile is made of them."""

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
from ..image.load import load_image, picture_size
from ..image.spec import ImageSpec
from .encode import SampleTooLongError, find_picture, tokenize_to_fit
from .row import Row
from .row_note import TOO_LONG
from .workers import map_in_processes

CHUNK = 64  # rows a process takes at a time
MIN_ROWS_TO_SHARE = 512  # below this, starting processes takes longer than the work
MISSING, UNREADABLE = "missing_picture", "unreadable_picture"


@dataclass(frozen=True)
class RowFacts:
    """One row, measured.

    length: tokens with every picture expanded, before anything is cut; None where a picture cannot be opened. num_kept,
    num_trained: tokens that are left and trained after cutting, 0 for a row that is skipped. sizes: (width, height) px
    of the pictures that can be opened. kind, reason: why the row is skipped, in the words of `row_note`, or None and
    "". digest: equal for rows that say the same about the same pictures.
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
class Measure:
    """How rows are measured: as `encode.encode_turns` would encode them.

    is_thorough: pictures are decoded to the end, so that broken ones are found, and not only asked for their size.
    """

    tokenizer: Any
    template: ChatTemplate
    spec: ImageSpec
    max_length: int | None
    is_thorough: bool = True

    def row(self, row: Row, sizes: dict[str, Any]) -> RowFacts:
        """Measure one row. sizes: what is known of pictures, from place to size or error, and is added to."""
        sources = [_place(source, row.folders) for source in row.conversation.images]
        found = [_size(source, sizes, self.is_thorough) for source in sources]
        failures = [size for size in found if isinstance(size, ImageError)]
        num_missing = sum(isinstance(failure, MissingImageError) for failure in failures)
        facts = {
            "sizes": tuple(size for size in found if not isinstance(size, ImageError)),
            "num_missing": num_missing,
            "num_unreadable": len(failures) - num_missing,
            "digest": _digest(row.conversation, sources),
        }
        if failures:
            kind = MISSING if isinstance(failures[0], MissingImageError) else UNREADABLE
            return RowFacts(None, 0, 0, 0, kind=kind, reason=str(failures[0]), **facts)
        return self._tokens(row.conversation, [num_image_tokens(size, self.spec) for size in found], facts)

    def _tokens(self, conversation: Conversation, counts: Sequence[int], facts: dict) -> RowFacts:
        tokenize = partial(tokenize_to_fit, tokenizer=self.tokenizer, template=self.template)
        _, ids, is_trained, num_dropped = tokenize(conversation, counts, max_length=None)
        length = len(ids)
        if self.max_length is not None and length > self.max_length:
            try:
                _, ids, is_trained, num_dropped = tokenize(conversation, counts, max_length=self.max_length)
            except SampleTooLongError as error:
                return RowFacts(length, 0, 0, 0, kind=TOO_LONG, reason=str(error), **facts)
        if not any(is_trained):
            return RowFacts(length, 0, 0, 0, kind="nothing_trained", reason="no token of the row is trained", **facts)
        return RowFacts(length, len(ids), sum(is_trained), num_dropped, kind=None, reason="", **facts)


def measure_rows(rows: Sequence[Row], measure: Measure, *, num_workers: int = 1) -> Iterator[RowFacts]:
    """Yield the facts of each row, in order, from several processes where that pays."""
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
    """Return how many processes are worth starting: one a core, eight at most."""
    return min(8, os.cpu_count() or 1)


def _measure_chunk(measure: Measure, rows: Sequence[Row]) -> list[RowFacts]:
    sizes: dict[str, Any] = {}
    return [measure.row(row, sizes) for row in rows]


def _place(source: Any, folders: Sequence[str]) -> Any:
    """Return where a picture lies, or the error that says where it was looked for."""
    try:
        return find_picture(source, folders)
    except ImageError as error:
        return error


def _size(place: Any, sizes: dict[str, Any], is_thorough: bool) -> tuple[int, int] | ImageError:
    """Return the (width, height) px of a picture, upright, or why it cannot be had."""
    if isinstance(place, ImageError):
        return place
    if place not in sizes:
        try:
            sizes[place] = load_image(place).size if is_thorough else picture_size(place)
        except ImageError as error:
            sizes[place] = error
    return sizes[place]


def _digest(conversation: Conversation, places: Sequence[Any]) -> bytes:
    said = [(message.role, message.pieces, message.is_trained) for message in conversation.messages]
    return hashlib.blake2b(repr((said, [str(place) for place in places])).encode(), digest_size=16).digest()
