"""A whole prompt through fused layers, block by block of positions, each block by one thread of the CPU.

Within a layer the blocks depend on each other by their keys and values alone. So a thread takes a block from what it
attends to up to the next layer's queries, keys and values, and threads wait for each other once a layer.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial

import paddle

from ...ops.attention import attend, causal_bias
from ...ops.threads import in_parallel, num_workers
from ..kv_cache import KVCache

SMALLEST, LARGEST = 64, 256  # positions of a block
STEP = 32
BLOCKS_A_WORKER = 4  # at least, so that workers end at about the same time


@dataclass(frozen=True)
class Block:
    """Positions start .. end, what turns their queries and keys, their mask, and what a layer made of them.

    hidden: [B, end - start, H]; heads: query, key and value for the next layer, [B, heads or kv_heads, end - start, D].
    """

    start: int
    end: int
    turn: object
    mask: object
    hidden: object
    heads: tuple = ()


def block_ends(length: int) -> list[tuple[int, int]]:
    """Return start and end of each block; a single one where threads have nothing to share."""
    size = math.ceil(length / (BLOCKS_A_WORKER * num_workers()))
    size = min(max(math.ceil(size / STEP) * STEP, SMALLEST), LARGEST)
    if num_workers() == 1 or length <= size:
        return [(0, length)]
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def read_blockwise(layers, embeds, ends: list[tuple[int, int]], turns: list, cache: KVCache, rows):
    """Read embeds [B, T, H] into an empty cache, where each position sees those before; return hidden states.

    turns: for each block what turns its queries and keys, see `FusedLayer`. rows: from `KVCache.rows`.
    """
    masks = {end - start: causal_bias(end - start, end - start) for start, end in ends}
    blocks = [
        Block(start, end, turn, masks[end - start], embeds[:, start:end])
        for (start, end), turn in zip(ends, turns, strict=True)
    ]
    blocks = in_parallel(partial(_projected, layers[0]), blocks)
    for number, layer in enumerate(layers):
        keys, values = (paddle.concat([block.heads[part] for block in blocks], axis=2) for part in (1, 2))
        cache.write(number, rows, keys, values)
        following = layers[number + 1] if number + 1 < len(layers) else None
        # Those that see most keys go first, so that no thread is left with one of them while the others wait.
        blocks = in_parallel(partial(_read, layer, following, keys, values), blocks[::-1])[::-1]
    return paddle.concat([block.hidden for block in blocks], axis=1)


def _projected(layer, block: Block) -> Block:
    return dataclasses.replace(block, heads=layer.project(block.hidden, block.turn))


def _read(layer, following, keys, values, block: Block) -> Block:
    """Return a block behind a layer, with the queries, keys and values of the following one, if there is one."""
    seen = (part[:, :, : block.end] for part in (keys, values))
    hidden = layer.finish(block.hidden, attend(block.heads[0], *seen, block.mask))
    block = dataclasses.replace(block, hidden=hidden, heads=())
    return block if following is None else _projected(following, block)
