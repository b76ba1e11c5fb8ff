"""The positions of a prefill in pieces, each computed by one thread of the CPU.

Within a layer, pieces depend on each other by keys and values only. So a thread computes a piece from its attention up
to the next layer's queries, keys and values, and threads wait for each other once a layer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import _C_ops

from ...ops.plain_attention import attend_block, plain_attention, window_bias
from ..config import LanguageConfig
from ..kv_cache import KVCache, Run
from ..language.masks import run_masks
from .threads import num_workers

SMALLEST, LARGEST = 32, 320  # positions of a piece
LARGEST_CALLED = 1024  # where layers are called that prepare their weights in every call
QUERIES = 64  # that are scored at a time: bounds the score matrix
FEW = 16  # queries that are scored against a slot's whole capacity, with a mask


@dataclass(frozen=True)
class Segment:
    """Positions start .. end of a slot, of which the last num_wanted hidden states are wanted."""

    slot: int
    start: int
    end: int
    num_wanted: int

    @property
    def count(self) -> int:
        return self.end - self.start

    def wanted(self) -> Segment:
        """Return the part whose hidden states are wanted."""
        return dataclasses.replace(self, start=self.end - self.num_wanted)


@dataclass(frozen=True)
class Piece:
    """Segments one after the other, and their results so far.

    hidden [N, H]; tables: cos and sin for queries [1, heads, N, D], and for keys; masks: for each segment those of each
    layer over the capacity, or None where it is computed without; query, key, value [1, heads or kv_heads, N, D].
    """

    segments: tuple[Segment, ...]
    hidden: Any
    tables: tuple
    masks: tuple
    query: Any = None
    key: Any = None
    value: Any = None

    def wanted(self) -> Piece:
        """Return the piece of the wanted positions, which may be none, but with the keys and values of all."""
        kept = [number for number, segment in enumerate(self.segments) if segment.num_wanted]
        if all(segment.num_wanted == segment.count for segment in self.segments):
            return self
        ends = np.cumsum([segment.count for segment in self.segments])
        segments = tuple(self.segments[number].wanted() for number in kept)
        places = [
            ends[number] - 1 - back for number in kept for back in reversed(range(self.segments[number].num_wanted))
        ]
        if not places:
            return dataclasses.replace(self, segments=(), hidden=None)
        places = paddle.to_tensor(places, dtype="int64")
        tables = tuple(paddle.index_select(table, places, axis=2) for table in self.tables[0]), None
        masks = tuple(
            masks and [mask[:, :, -segment.count :] for mask in masks]
            for masks, segment in zip((self.masks[number] for number in kept), segments, strict=True)
        )
        hidden = paddle.index_select(self.hidden, places)
        return dataclasses.replace(self, segments=segments, hidden=hidden, tables=tables, masks=masks)


def split_runs(runs: Sequence[Run], size: int) -> list[tuple[Segment, ...]]:
    """Split the positions of runs, one after the other, into pieces of this size; the last may be smaller."""
    pieces: list[list[Segment]] = [[]]
    num_free = size
    for run in runs:
        start = run.start
        while start < run.end:
            if not num_free:
                pieces.append([])
                num_free = size
            end = min(run.end, start + num_free)
            num_wanted = max(end - max(run.end - run.num_outputs, start), 0)
            pieces[-1].append(Segment(run.slot, start, end, num_wanted))
            num_free -= end - start
            start = end
    return [tuple(piece) for piece in pieces]


def piece_size(num_positions: int, largest: int) -> int:
    """Return how many positions a piece should have, at most, so that all workers get the same number of pieces."""
    workers = num_workers()
    if workers == 1 or num_positions < 2 * SMALLEST:
        return num_positions
    num_rounds = math.ceil(num_positions / (workers * largest))
    return max(math.ceil(num_positions / (workers * num_rounds)), SMALLEST)


def masks_of(config: LanguageConfig, segment: Segment, capacity: int, embeds) -> list | None:
    """Return each layer's mask over the capacity for few positions after others, or None."""
    if segment.count > FEW or not segment.start:
        return None
    run = Run(segment.slot, segment.start, segment.count)
    return run_masks(config, run, run.count, capacity, embeds)


def attend(piece: Piece, cache: KVCache, number: int, window: int | None):
    """Return the attention [1, heads, N, D] of a piece's queries, which are scaled, to layer `number` of the cache.

    window: number of keys that a query of this layer sees, or None for all.
    """
    counts = [segment.count for segment in piece.segments]
    queries = _C_ops.split(piece.query, counts, 2) if len(counts) > 1 else [piece.query]
    heads = []
    for segment, query, masks in zip(piece.segments, queries, piece.masks, strict=True):
        if masks is None:
            heads.append(_attend(segment, query, cache, number, window))
            continue
        heads.append(attend_block(query, *_views(cache, number, segment.slot), masks[number]))
    return paddle.concat(heads, axis=2) if len(heads) > 1 else heads[0]


def _attend(segment: Segment, query, cache: KVCache, number: int, window: int | None):
    """Return the attention of many queries, to a copy of the keys that they see, which is a small part of the work."""
    first = 0 if window is None else max(segment.start - window + 1, 0)
    num_keys = segment.end - first
    bias = None if window is None or num_keys <= window else window_bias(segment.count, num_keys, window)
    parts = (_C_ops.slice(view, [2], [first], [segment.end], [1], []) for view in _views(cache, number, segment.slot))
    return plain_attention(query, *parts, is_causal=bias is None, bias=bias, scale=1.0, block=QUERIES)


def _views(cache: KVCache, number: int, slot: int) -> tuple:
    """Return keys and values of a slot in a layer, [1, kv_heads, capacity, D], in the memory of the cache."""
    return tuple(store[number]._slice(slot, slot + 1) for store in (cache.keys, cache.values))
