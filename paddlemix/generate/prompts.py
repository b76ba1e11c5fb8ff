"""Reads the prompts of several rows into one cache; what rows have in common at the start is read once.

Rows end at the same place of the cache, so that they are decoded in lockstep. They are read in levels: a level's row
begins with a row of the level before and gets a copy of its keys and values. For example: the system text (one row);
the system text and each of three images (three rows); twelve questions about them (twelve rows). The padding of a row
is at its start only, so that distances in the cache are distances in the text, which sliding windows and ALiBi count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cache_keys import Key, embed_keys, num_common
from .engine import Engine

PASS_COST = 48  # the cost of one more pass, in positions read


@dataclass(frozen=True)
class Level:
    """Rows, and for each the number of the row in the level before that it begins with; sources () on the first level.

    num_new: positions that are read of every row, which is the length of the longest rest.
    """

    rows: list[list[Key]]
    sources: tuple[int, ...]
    num_new: int

    @property
    def length(self) -> int:
        return max(map(len, self.rows))

    @property
    def pads(self) -> list[int]:
        """How far each row is shifted to the right, so that all end at the same place."""
        return [self.length - len(row) for row in self.rows]


def read_prompts(
    model,
    rows: Sequence[Sequence[Key]],
    features: Mapping[str, Any],
    budgets: Sequence[int],
    *,
    shares_prefixes: bool = True,
) -> tuple[Engine, np.ndarray]:
    """Return an engine that has read the rows and has room for their answers, and the last logits [B, vocab].

    features: of all images in the rows, by content key. budgets: the maximum length of each answer. Rows whose lengths
    lead to different rotary scalings (`language.positions`) share no prefixes.
    """
    rows = [list(row) for row in rows]
    lengths = [len(row) + budget for row, budget in zip(rows, budgets, strict=True)]
    has_one_scaling = len(set(model.language_model.rotary.choose(lengths))) == 1
    levels = plan(rows) if shares_prefixes and has_one_scaling else [_level(rows)]
    num_rows = len(levels[0].rows)
    engine = Engine(model, num_rows, levels[-1].length + max(budgets), lengths[:num_rows])
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
    """Return a level of rows that begin with rows of `before`."""
    num_read = [len(before[source]) for source in sources] or [0] * len(rows)
    num_new = max(len(row) - number for row, number in zip(rows, num_read, strict=True))
    return Level(rows, tuple(sources), num_new)


def _cost(levels: list[Level]) -> int:
    return sum(len(level.rows) * level.num_new + PASS_COST for level in levels)


def _grouped(rows: list[list[Key]]) -> list[int]:
    """Return the group of each row. Rows of a group agree up to the end of their last image."""
    numbers: dict[tuple[Key, ...], int] = {}
    return [numbers.setdefault(_head(row), len(numbers)) for row in rows]


def _head(row: list[Key]) -> tuple[Key, ...]:
    end = len(row)
    while end and isinstance(row[end - 1], int):
        end -= 1
    return tuple(row[:end])


def _shared(rows: list[list[Key]], rest: int = 1) -> list[Key]:
    """Return the common prefix of all rows, but leave at least `rest` keys of each."""
    shortest = min(map(len, rows)) - rest
    return rows[0][: min([shortest, *(num_common(rows[0], row) for row in rows[1:])])]


def _read(engine: Engine, level: Level, before: Level | None, features) -> np.ndarray:
    """Read a level with an engine that has read the level before; return the last logits [B, vocab]."""
    pads = level.pads
    start = level.length - level.num_new
    if before is not None:
        shifts = [pad - before.pads[source] for pad, source in zip(pads, level.sources, strict=True)]
        engine.cache.take_rows(level.sources, shifts, start)
    columns = np.arange(level.length)
    engine.hide_padding(columns >= np.array(pads)[:, None])
    padded = [[None] * pad + row for pad, row in zip(pads, level.rows, strict=True)]
    positions = np.maximum(columns - np.array(pads)[:, None], 0)
    return engine.read(embed_keys(engine.model, [row[start:] for row in padded], features), positions[:, start:])
