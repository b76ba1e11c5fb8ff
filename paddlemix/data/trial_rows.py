"""Try a few rows of each data file before the first step, so that a wrong image folder ends a run at once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from ..image.load import SCHEME
from .bad_rows import BadRowPolicy, TooManyBadRowsError
from .encode import hint_for
from .measure import MISSING, UNREADABLE, Measure, RowFacts, measure_rows
from .row import Row
from .row_note import RowNote, count_kinds, in_words
from .row_sequence import Part, StoredRows, parts_of

NUM_TRIED, MIN_TRIED = 1024, 16  # rows of all files together, and at least of each file
KINDS = (MISSING, UNREADABLE)  # of rows with bad images
NUM_DEVIATIONS = 4  # standard deviations below the observed share, so that chance never ends a run


def check_images(
    rows: Sequence[Row], measure: Measure, policy: BadRowPolicy, split: str, num_left_out: int = 0
) -> None:
    """Try rows of each file; raise TooManyBadRowsError if almost certainly more images are bad than may be skipped.

    Rows with images on the network are not tried. num_left_out: rows that were skipped when their files were read. The
    error has the notes of the bad rows that were found.
    """
    num_rows = len(rows) + num_left_out
    limit = policy.limit(num_rows) if policy.is_content_skipped else 0
    by_file = list(_with_images(rows))
    num_tried = max(NUM_TRIED // max(len(by_file), 1), MIN_TRIED)
    num_certain, notes = 0.0, []
    for own in by_file:
        tried = _random_rows(own, num_tried)
        bad = [(row, fact) for row, fact in zip(tried, measure_rows(tried, measure), strict=True) if fact.kind in KINDS]
        notes += [RowNote.of(row, split, fact.kind, fact.reason) for row, fact in bad]
        num_certain += _at_least(len(bad), len(tried), len(own))
        if num_certain > limit:
            if policy.is_content_skipped and 2 * len(bad) < len(tried):
                policy.check(notes, num_rows, notes)
            raise TooManyBadRowsError(_describe(bad, len(tried), len(own), limit, policy), notes)


def _random_rows(rows: Part, count: int) -> list[Row]:
    """Return random rows in their order, the same ones each time, without images on the network."""
    chosen = np.random.default_rng(0).permutation(len(rows))[:count]
    return [row for row in (rows[index] for index in sorted(chosen)) if not has_downloads(row)]


def _at_least(num_bad: int, num_tried: int, num_rows: int) -> float:
    """Return a lower bound for the number of bad rows, from the tried ones (standard deviation of the binomial)."""
    if num_tried in (0, num_rows):
        return num_bad
    share = num_bad / num_tried
    return max(share - NUM_DEVIATIONS * math.sqrt(share * (1 - share) / num_tried), 0.0) * num_rows


def _with_images(rows: Sequence[Row]) -> Iterator[Part]:
    """Yield, by file, the rows that have images, all of them on this machine."""
    for part in parts_of(rows):
        if isinstance(part, StoredRows):
            yield from () if part.has_images else _stored_with_images(part)
            continue
        by_file: dict[str, list[Row]] = defaultdict(list)
        for row in part:
            if row.conversation.images and not has_downloads(row):
                by_file[row.file].append(row)
        yield from by_file.values()


def _stored_with_images(part: StoredRows) -> Iterator[StoredRows]:
    """Yield, by file, the stored rows that have images. Of none of them is it known where the images are."""
    files = np.where(part.num_images > 0, part.files, -1)[part.numbers]
    for file in np.unique(files[files >= 0]):
        yield part.pick(np.flatnonzero(files == file))


def has_downloads(row: Row) -> bool:
    """Return whether an image of a row is on the network."""
    return any(isinstance(image, str) and SCHEME.match(image) for image in row.conversation.images)


def _describe(bad: list[tuple[Row, RowFacts]], num_tried: int, num_rows: int, limit: int, policy: BadRowPolicy) -> str:
    row, fact = bad[0]
    hints = (hint_for(image, row.folders) for image in row.conversation.images) if fact.kind == MISSING else ()
    allowed = f"max_bad_samples allows {limit:,} bad rows" if policy.is_content_skipped else "on_bad_sample is raise"
    kinds = in_words(count_kinds(fact for _, fact in bad))
    return (
        f"{row.file}: {len(bad):,} of the {num_tried:,} rows with images that were tried, of {num_rows:,}, cannot be "
        f"used ({kinds}), but {allowed}; for example {row.where}: {fact.reason}{next(filter(None, hints), '')}"
    )
