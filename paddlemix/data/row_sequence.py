"""Rows that are made when they are asked for: those of a cache, and mixtures that contain them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from .row import Row


@dataclass(frozen=True)
class StoredRows:
    """Rows that were encoded before, of which numbers are known before any is read.

    read(number): the row of a number. numbers: the rows that are taken, int64 [rows], in order. By number, all [n]:
    all_lengths, tokens after cutting, 0 for a row to skip, None if they have to be measured; num_images; files, which
    rows belong together; positions, the places in the stored files. data_files: paths of the files, or facts of the raw
    files, see `token_cache.fingerprint.file_facts`. has_images: the images are stored too. is_in_order: rows are to be
    trained in the order in which they are stored.
    """

    read: Callable[[int], Row]
    numbers: np.ndarray
    all_lengths: np.ndarray | None
    num_images: np.ndarray
    files: np.ndarray
    positions: np.ndarray
    data_files: tuple[str | dict[str, Any], ...]
    has_images: bool = False
    is_in_order: bool = False

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Row:
        return self.read(int(self.numbers[index]))

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    @property
    def lengths(self) -> np.ndarray | None:
        return None if self.all_lengths is None else self.all_lengths[self.numbers]

    def pick(self, indices: np.ndarray) -> StoredRows:
        """Return the rows at some of the places, which may come several times."""
        return replace(self, numbers=self.numbers[indices])


Part = list[Row] | StoredRows


class RowSequence(Sequence):
    """The rows of the parts of a mixture, one part after the other."""

    def __init__(self, parts: Sequence[Part]):
        self.parts = tuple(parts)

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.parts else 0

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index = int(index) % len(self)
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[part][index - int(self._ends[part]) + len(self.parts[part])]

    def __iter__(self) -> Iterator[Row]:
        return (row for part in self.parts for row in part)


def joined(parts: Sequence[Part]) -> Sequence[Row]:
    """Return the rows of all parts: one list if none of them is stored."""
    if any(isinstance(part, StoredRows) for part in parts):
        return RowSequence(parts)
    return [row for part in parts for row in part]


def parts_of(rows: Sequence[Row]) -> tuple[Part, ...]:
    return rows.parts if isinstance(rows, RowSequence) else (rows,)


def known_lengths(rows: Sequence[Row]) -> np.ndarray:
    """Return the tokens of each row that are known without reading it, int64 [rows]; 0 for all others."""
    found = []
    for part in parts_of(rows):
        lengths = part.lengths if isinstance(part, StoredRows) else None
        found.append(np.zeros(len(part), dtype=np.int64) if lengths is None else lengths)
    return np.concatenate(found).astype(np.int64) if found else np.zeros(0, dtype=np.int64)


def have_images(rows: Sequence[Row]) -> np.ndarray:
    """Return whether each row has an image, bool [rows]."""
    found = [
        part.num_images[part.numbers] > 0
        if isinstance(part, StoredRows)
        else np.array([bool(row.conversation.images) for row in part], dtype=bool)
        for part in parts_of(rows)
    ]
    return np.concatenate(found)


def stored_order(rows: Sequence[Row]) -> np.ndarray | None:
    """Return the row numbers in the order in which the rows are stored, None unless they are to be trained so.

    Raises ValueError if only a part of the rows is stored in an order.
    """
    parts = parts_of(rows)
    chosen = [isinstance(part, StoredRows) and part.is_in_order for part in parts]
    if not any(chosen):
        return None
    if not all(chosen):
        raise ValueError(
            "one entry of the dataset has 'order': 'stored', and another one has not: they cannot be mixed; make one "
            "cache of all entries, or leave 'order' out"
        )
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
    orders = [
        start + np.argsort(part.positions[part.numbers], kind="stable")
        for start, part in zip(starts, parts, strict=True)
    ]
    return np.concatenate(orders)


def data_files(rows: Sequence[Row]) -> list[str | dict[str, Any]]:
    """Return the raw files of rows in order, each once: a path, or the facts of a file that need not be there."""
    found: dict[str, str | dict[str, Any]] = {}
    for part in parts_of(rows):
        if isinstance(part, StoredRows):
            for facts in part.data_files:
                found.setdefault(facts if isinstance(facts, str) else facts["file"], facts)
        else:
            for row in part:
                found.setdefault(row.file, row.file)
    return list(found.values())
