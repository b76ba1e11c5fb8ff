"""Prompts read through fused layers in pieces, each by one thread of the CPU.

The pieces of a single prompt are blocks of positions, which depend on each other within a layer by their keys and
values only. So a thread computes a block from its attention up to the next layer's queries, keys and values, and
threads wait for each other once a layer. The pieces of a batch are its rows without padding, which are independent.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import paddle

from ...ops.plain_attention import plain_attention
from ..kv_cache import KVCache, take_shifted
from .threads import in_parallel, num_workers

SMALLEST, LARGEST = 64, 256  # positions of a block
STEP = 32
QUERIES = 64  # queries of a block that are scored at a time: bounds the score matrix
MAX_TOGETHER = 512  # positions of rows that one thread reads together
BLOCKS_A_WORKER = 4  # at least, so that workers end at about the same time


@dataclass(frozen=True)
class Block:
    """Positions start .. end, with the function that rotates their queries and keys, and a layer's results.

    hidden: [B, end - start, H]; heads: query, key and value for the next layer, [B, heads or kv_heads, end - start, D].
    """

    start: int
    end: int
    rotate: object
    hidden: object
    heads: tuple = ()


def block_ends(length: int) -> list[tuple[int, int]]:
    """Return start and end of each block of a prompt, or a single block where threads do not pay."""
    size = math.ceil(length / (BLOCKS_A_WORKER * num_workers()))
    size = min(max(math.ceil(size / STEP) * STEP, SMALLEST), LARGEST)
    if num_workers() == 1 or length <= size:
        return [(0, length)]
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def read_blockwise(layers, embeds, ends: list[tuple[int, int]], rotations: list, cache: KVCache, rows):
    """Append embeds [B, T, H] to a cache, where each position sees all before it; return hidden states.

    rotations: for each block the function that rotates its queries and keys, see `FusedLayer`. rows: from
    `KVCache.rows`.
    """
    blocks = [
        Block(start, end, rotate, embeds[:, start:end]) for (start, end), rotate in zip(ends, rotations, strict=True)
    ]
    blocks = in_parallel(partial(_projected, layers[0]), blocks)
    for number, layer in enumerate(layers):
        heads = [paddle.concat([block.heads[part] for block in blocks], axis=2) for part in (1, 2)]
        cache.write(number, rows, *heads)
        if cache.length:
            end = cache.length + embeds.shape[1]
            heads = [store[:, :, :end] for store in (cache.keys[number], cache.values[number])]
        following = layers[number + 1] if number + 1 < len(layers) else None
        # The blocks that see most keys go first, so that no thread starts one of them when the others are done.
        blocks = in_parallel(partial(_read, layer, following, cache.length, heads), blocks[::-1])[::-1]
    return paddle.concat([block.hidden for block in blocks], axis=1)


def _projected(layer, block: Block) -> Block:
    return dataclasses.replace(block, heads=layer.project(block.hidden, block.rotate))


def _read(layer, following, num_before: int, heads: list, block: Block) -> Block:
    """Return a block after a layer, with the queries, keys and values of the following one, if there is one.

    heads: keys and values of all positions, of which num_before were in the cache before.
    """
    seen = (part[:, :, : num_before + block.end] for part in heads)
    hidden = layer.finish(block.hidden, _attend(layer, block.heads[0], *seen))
    block = dataclasses.replace(block, hidden=hidden, heads=())
    return block if following is None else _projected(following, block)


def _attend(layer, query, key, value):
    return plain_attention(query, key, value, is_causal=True, scale=layer.scale, block=QUERIES)


@dataclass(frozen=True)
class BatchRow:
    """The next positions of row `number` of a batch: embeds [1, T, H], position_ids [1, T].

    first: the first position of the cache that the row sees.
    """

    number: int
    first: int
    embeds: object
    position_ids: object

    @property
    def length(self) -> int:
        return self.embeds.shape[1]


def read_rows(layers, batch: list[BatchRow], rotate: Callable, cache: KVCache, rows):
    """Append as many positions to every row as the longest has; return hidden states [B, T, H].

    Each position sees those of its row from `first` on. rotate: returns the rotation for some rows' positions
    concatenated. rows: from `KVCache.rows`. Shorter rows are padded with zeros at the start.
    """
    found = in_parallel(partial(_read_together, layers, rotate, cache), split_evenly(batch))
    num_new = max(row.length for row in batch)
    outputs = [pair for _, pair in sorted(pair for part in found for pair in part.items())]
    for number in range(len(layers)):
        heads = [_right_aligned([kept[number][part] for _, kept in outputs], num_new, axis=2) for part in (0, 1)]
        cache.write(number, rows, *heads)
    return _right_aligned([hidden for hidden, _ in outputs], num_new, axis=1)


def split_evenly(batch: list[BatchRow]) -> list[list[BatchRow]]:
    """Split rows into parts of about the same number of positions, equally many for each worker."""
    rounds = math.ceil(sum(row.length for row in batch) / (num_workers() * MAX_TOGETHER))
    parts: list[list[BatchRow]] = [[] for _ in range(min(rounds * num_workers(), len(batch)))]
    for row in sorted(batch, key=lambda row: row.length, reverse=True):
        min(parts, key=lambda part: sum(each.length for each in part)).append(row)
    return parts


def _read_together(layers, rotate: Callable, cache: KVCache, part: list[BatchRow]) -> dict[int, tuple]:
    """Return by row number the hidden states of rows, and their keys and values in each layer."""
    hidden, rotation = paddle.concat([row.embeds for row in part], axis=1), rotate(part)
    lengths, kept = [row.length for row in part], {row.number: [] for row in part}
    for depth, layer in enumerate(layers):
        heads, projected = [], [_split(each, lengths, 2) for each in layer.project(hidden, rotation)]
        for row, query, *new in zip(part, *projected, strict=True):
            kept[row.number].append(new)
            if row.first < cache.length:
                stores = cache.keys[depth], cache.values[depth]
                before = (store[row.number : row.number + 1, :, row.first : cache.length] for store in stores)
                new = [paddle.concat(pair, axis=2) for pair in zip(before, new, strict=True)]
            heads.append(_attend(layer, query, *new))
        hidden = layer.finish(hidden, paddle.concat(heads, axis=2))
    return {row.number: (own, kept[row.number]) for row, own in zip(part, _split(hidden, lengths, 1), strict=True)}


def _split(tensor, lengths: list[int], axis: int) -> list:
    return paddle.split(tensor, lengths, axis=axis) if len(lengths) > 1 else [tensor]


def _right_aligned(parts: list, length: int, axis: int):
    """Return parts as rows of a length, each with zeros before it."""
    return paddle.concat([take_shifted(part, [0], [length - part.shape[axis]], length, axis) for part in parts])
