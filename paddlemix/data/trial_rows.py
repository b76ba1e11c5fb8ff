"""Try a few rows of each data file before the first step, so that a wrong image folder ends a run at once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ..image.load import SCHEME
from .bad_rows import BadRowPolicy, TooManyBadRowsError
from .encode import hint_for
from .measure import MISSING, UNREADABLE, Measure, RowFacts, measure_rows
from .row import Row
from .row_note import RowNote, count_kinds, in_words

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
    by_file = _with_images(rows)
    num_tried = max(NUM_TRIED // max(len(by_file), 1), MIN_TRIED)
    num_certain, notes = 0.0, []
    for own in by_file.values():
        tried = _random_rows(own, num_tried)
        bad = [(row, fact) for row, fact in zip(tried, measure_rows(tried, measure), strict=True) if fact.kind in KINDS]
        notes += [RowNote.of(row, split, fact.kind, fact.reason) for row, fact in bad]
        num_certain += _at_least(len(bad), len(tried), len(own))
        if num_certain > limit:
            if policy.is_content_skipped and 2 * len(bad) < len(tried):
                policy.check(notes, num_rows, notes)
            raise TooManyBadRowsError(_describe(bad, len(tried), len(own), limit, policy), notes)


def _random_rows(rows: list[Row], count: int) -> list[Row]:
    """Return random rows in their order, the same ones each time."""
    chosen = np.random.default_rng(0).permutation(len(rows))[:count]
    return [rows[index] for index in sorted(chosen)]


def _at_least(num_bad: int, num_tried: int, num_rows: int) -> float:
    """Return a lower bound for the number of bad rows, from the tried ones (standard deviation of the binomial)."""
    if num_tried == num_rows:
        return num_bad
    share = num_bad / num_tried
    return max(share - NUM_DEVIATIONS * math.sqrt(share * (1 - share) / num_tried), 0.0) * num_rows


def _with_images(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return, by file, the rows that have images, all of them on this machine."""
    by_file: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        images = row.conversation.images
        if images and not any(isinstance(image, str) and SCHEME.match(image) for image in images):
            by_file[row.file].append(row)
    return by_file


def _describe(bad: list[tuple[Row, RowFacts]], num_tried: int, num_rows: int, limit: int, policy: BadRowPolicy) -> str:
    row, fact = bad[0]
    hints = (hint_for(image, row.folders) for image in row.conversation.images) if fact.kind == MISSING else ()
    allowed = f"max_bad_samples allows {limit:,} bad rows" if policy.is_content_skipped else "on_bad_sample is raise"
    kinds = in_words(count_kinds(fact for _, fact in bad))
    return (
        f"{row.file}: {len(bad):,} of the {num_tried:,} rows with images that were tried, of {num_rows:,}, cannot be "
        f"used ({kinds}), but {allowed}; for example {row.where}: {fact.reason}{next(filter(None, hints), '')}"
    )
