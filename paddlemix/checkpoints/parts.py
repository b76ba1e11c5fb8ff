"""A card's parts of a model's tensors, cut while they are read: a part of a mapped tensor needs its own memory only.

`gathering` goes the other way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..models.parallel.cuts import axis_of
from ..tensor_files.stored import StoredTensor
from ..tensor_files.transforms import ALL, Derived, Region, open_regions

if TYPE_CHECKING:
    from ..models.parallel.cards import Cards


@dataclass(frozen=True)
class Part(Derived):
    """Some rows and columns of its only source."""

    rows: slice = field(default_factory=lambda: ALL)
    columns: slice = field(default_factory=lambda: ALL)


def cut_tensors(tensors: Mapping[str, StoredTensor], cards: Cards | None) -> dict[str, StoredTensor]:
    """Return a card's parts of tensors by our names; tensors that are whole on every card stay."""
    if cards is None:
        return dict(tensors)
    axes = {name: axis_of(name) for name in tensors}
    return {name: tensor if axes[name] is None else _cut(tensor, axes[name], cards) for name, tensor in tensors.items()}


def _cut(tensor: StoredTensor, axis: int, cards: Cards) -> Part:
    start, stop = cards.bounds(tensor.shape[axis])
    ranges = [(start, stop) if number == axis else (0, size) for number, size in enumerate(tensor.shape)]
    rows, columns = (slice(*ends) for ends in (*ranges, (0, 1))[:2])
    shape = tuple(last - first for first, last in ranges)

    def open_source() -> Region:
        source = open_regions(tensor)
        return lambda its_rows, its_columns: source(_within(rows, its_rows), _within(columns, its_columns))

    def read() -> np.ndarray:
        return open_regions(tensor)(rows, columns)

    return Part(tensor.dtype, shape, read, "cut", (tensor,), open_source, rows, columns)


def _within(outer: slice, inner: slice) -> slice:
    start, stop, _ = inner.indices(outer.stop - outer.start)
    return slice(outer.start + start, outer.start + stop)
