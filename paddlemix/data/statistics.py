"""Aggregate measured rows to the numbers of a report. NumPy only; no file is opened.

Field names are the keys of the JSON report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .measure import RowFacts
from .row import Row
from .row_note import RowNote, count_kinds

NUM_BINS = 40
MAX_SIZES = 12  # the most frequent image sizes in the report


@dataclass(frozen=True)
class FileFacts:
    """One data file. num_rows: all rows; num_used: rows that are trained on. trained_share: of its tokens, 0 to 1."""

    file: str
    num_rows: int
    num_used: int
    formats: dict[str, int]
    skipped: dict[str, int]
    num_cut: int
    num_dropped_turns: int
    num_images: int
    num_missing: int
    num_unreadable: int
    num_tokens: int
    num_trained: int
    trained_share: float


@dataclass(frozen=True)
class LengthFacts:
    """Lengths of the samples in tokens, images included, before cutting; counts: samples between the edges."""

    min: int
    median: float
    p95: float
    max: int
    share_over: float
    edges: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class ImageFacts:
    """Images, counted each time a row names them. Sizes are (width, height) px; common: (width, height, count)."""

    num_found: int
    num_missing: int
    num_unreadable: int
    min_size: tuple[int, int] | None
    median_size: tuple[int, int] | None
    max_size: tuple[int, int] | None
    common: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class DataFacts:
    """A split. Each row of a file counts once, however often the mixture takes it."""

    files: tuple[FileFacts, ...]
    lengths: LengthFacts | None
    images: ImageFacts
    num_duplicates: int
    num_repeated: int

    def total(self, name: str) -> int:
        """Return the sum of a number over the files."""
        return sum(vars(file)[name] for file in self.files)

    def totals(self, name: str) -> dict[str, int]:
        """Return the sums of counts by name over the files."""
        counts: Counter[str] = Counter()
        for file in self.files:
            counts.update(vars(file)[name])
        return dict(counts)


def distinct_rows(rows: Iterable[Row]) -> list[Row]:
    """Return each row once, in the order of the mixture."""
    return list({(row.file, row.number): row for row in rows}.values())


def summarize(
    rows: Sequence[Row], facts: Sequence[RowFacts], left_out: Sequence[RowNote], *, num_in_mixture: int, max_length: int
) -> DataFacts:
    """Return the numbers of a split. rows: distinct; left_out: bad rows of the files."""
    names = dict.fromkeys([*(row.file for row in rows), *(note.file for note in left_out)])
    bad = {note.key: note for note in left_out}
    files = []
    for name in names:
        own = [(row, fact) for row, fact in zip(rows, facts, strict=True) if row.file == name]
        files.append(_file_facts(name, own, [note for note in bad.values() if note.file == name]))
    return DataFacts(
        tuple(files),
        length_facts([fact.length for fact in facts if fact.length is not None], max_length),
        image_facts(facts),
        len(facts) - len({fact.digest for fact in facts}),
        num_in_mixture - len(rows),
    )


def _file_facts(name: str, own: Sequence[tuple[Row, RowFacts]], bad: Sequence[RowNote]) -> FileFacts:
    facts = [fact for _, fact in own]
    skipped = Counter(fact.kind for fact in facts if fact.kind is not None)
    num_tokens, num_trained = (sum(vars(fact)[key] for fact in facts) for key in ("num_kept", "num_trained"))
    return FileFacts(
        file=name,
        num_rows=len(own) + len(bad),
        num_used=len(own) - skipped.total(),
        formats=dict(Counter(row.format for row, _ in own)),
        skipped=count_kinds(bad) | dict(skipped),
        num_cut=sum(fact.num_dropped_turns > 0 for fact in facts),
        num_dropped_turns=sum(fact.num_dropped_turns for fact in facts),
        num_images=sum(len(fact.sizes) + fact.num_missing + fact.num_unreadable for fact in facts),
        num_missing=sum(fact.num_missing for fact in facts),
        num_unreadable=sum(fact.num_unreadable for fact in facts),
        num_tokens=num_tokens,
        num_trained=num_trained,
        trained_share=num_trained / num_tokens if num_tokens else 0.0,
    )


def length_facts(lengths: Sequence[int], max_length: int) -> LengthFacts | None:
    """Return the distribution of lengths, None for no lengths; the last bin contains the longest."""
    if not lengths:
        return None
    values = np.asarray(lengths)
    width = max(1, -(-int(values.max() + 1) // NUM_BINS))
    edges = np.arange(0, int(values.max()) + width + 1, width)
    counts, _ = np.histogram(values, bins=edges)
    return LengthFacts(
        int(values.min()),
        float(np.median(values)),
        float(np.percentile(values, 95)),
        int(values.max()),
        float((values > max_length).mean()),
        tuple(map(int, edges)),
        tuple(map(int, counts)),
    )


def image_facts(facts: Sequence[RowFacts]) -> ImageFacts:
    """Return the counts and sizes of the rows' images."""
    sizes = [size for fact in facts for size in fact.sizes]
    array = np.asarray(sizes, dtype=np.int64).reshape(-1, 2)
    named = [tuple(map(int, of(array, axis=0))) for of in (np.min, np.median, np.max)] if sizes else [None] * 3
    common = tuple((*size, count) for size, count in Counter(sizes).most_common(MAX_SIZES))
    num_missing, num_unreadable = (sum(vars(fact)[key] for fact in facts) for key in ("num_missing", "num_unreadable"))
    return ImageFacts(len(sizes), num_missing, num_unreadable, *named, common)
