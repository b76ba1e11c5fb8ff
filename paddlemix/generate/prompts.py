"""Reads the prompts of several rows into one cache; what rows begin with in common is read once.

Rows end at the same place of the cache, so that they advance in step. They are read in levels: a level's row begins
with the row it comes from in the level before, whose keys and values it gets as a copy. For example: the system text
(one row); the system text and each of three pictures (three rows); twelve questions about them (twelve rows). Within a
row nothing but its padding, at the front, stands between two tokens, so that distances in the cache are distances in
the text (a sliding window and ALiBi count them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..image.tiles import ImageTiles
from .cache_keys import Key, embed_keys, num_common
from .engine import Engine
from .features import features_of

PASS_COST = 48  # what one more pass costs, in positions read


@dataclass(frozen=True)
class Level:
    """Rows, and for each the number of the row in the level before that it begins with; sources () on the first level.

    num_new: how many places the longest rest takes; so many are read of every row.
    """

    rows: list[list[Key]]
    sources: tuple[int, ...]
    num_new: int

    @property
    def length(self) -> int:
        return max(map(len, self.rows))

    @property
    def pads(self) -> list[int]:
        """How far each row is moved to the right, so that all end at the same place."""
        return [self.length - len(row) for row in self.rows]


def read_prompts(
    model,
    rows: Sequence[Sequence[Key]],
    pictures: Mapping[str, ImageTiles],
    room: int,
    *,
    shares_prefixes: bool = True,
) -> tuple[Engine, np.ndarray]:
    """Return an engine that holds the rows, with room for so many places more, and the last logits [B, vocab].

    pictures: by content key, all that occur in the rows.
    """
    rows = [list(row) for row in rows]
    levels = plan(rows) if shares_prefixes else [_level(rows)]
    features = features_of(model, pictures)
    engine = Engine(model, len(levels[0].rows), levels[-1].length + room)
    before, logits = None, None
    for level in levels:
        logits = _read(engine, level, before, features)
        before = level
    return engine, logits


def plan(rows: list[list[Key]]) -> list[Level]:
    """Return the levels that read the fewest positions; the last one is the rows themselves."""
    groups = _grouped(rows)
    members = [[] for _ in range(max(groups) + 1)]
    for row, group in zip(rows, groups, strict=True):
        members[group].append(row)
    prefixes = [_shared(group) for group in members]
    common = _shared(prefixes, rest=0)
    first = _level([common])
    choices = [
        [_level(rows)],
        [first, _level(rows, [0] * len(rows), [common])],
        [_level(prefixes), _level(rows, groups, prefixes)],
        [first, _level(prefixes, [0] * len(prefixes), [common]), _level(rows, groups, prefixes)],
    ]
    return min((levels for levels in choices if all(level.num_new for level in levels)), key=_cost)


def _level(rows: list[list[Key]], sources: Sequence[int] = (), before: Sequence[list[Key]] = ()) -> Level:
    """Make a level of rows that begin with rows `before`."""
    held = [len(before[source]) for source in sources] or [0] * len(rows)
    num_new = max(len(row) - number for row, number in zip(rows, held, strict=True))
    return Level(rows, tuple(sources), num_new)


def _cost(levels: list[Level]) -> int:
    return sum(len(level.rows) * level.num_new + PASS_COST for level in levels)


def _grouped(rows: list[list[Key]]) -> list[int]:
    """Return for each row its group: those are together that agree up to the end of their last picture."""
    numbers: dict[tuple[Key, ...], int] = {}
    return [numbers.setdefault(_head(row), len(numbers)) for row in rows]


def _head(row: list[Key]) -> tuple[Key, ...]:
    end = len(row)
    while end and isinstance(row[end - 1], int):
        end -= 1
    return tuple(row[:end])


def _shared(rows: list[list[Key]], rest: int = 1) -> list[Key]:
    """Return what all rows begin with, leaving at least `rest` keys of each."""
    shortest = min(map(len, rows)) - rest
    return rows[0][: min([shortest, *(num_common(rows[0], row) for row in rows[1:])])]


def _read(engine: Engine, level: Level, before: Level | None, features) -> np.ndarray:
    """Bring an engine that holds the level before to this one."""
    pads = level.pads
    start = level.length - level.num_new
    if before is not None:
        shifts = [pad - before.pads[source] for pad, source in zip(pads, level.sources, strict=True)]
        engine.take_rows(level.sources, shifts, start)
    columns = np.arange(level.length)
    engine.hide_padding(columns >= np.array(pads)[:, None])
    padded = [[None] * pad + row for pad, row in zip(pads, level.rows, strict=True)]
    positions = np.maximum(columns - np.array(pads)[:, None], 0)
    return engine.read(embed_keys(engine.model, [row[start:] for row in padded], features), positions[:, start:])
