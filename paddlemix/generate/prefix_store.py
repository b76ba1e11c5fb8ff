"""Keys and values of sequences that have left the cache, for later sequences that begin alike.

Many sequences begin with the same system text and image, and the next turn of a conversation begins with all turns
before it. What a slot contains is stored in blocks of places. A block is found by the hash of its cache keys and of all
keys before it, so that equal beginnings are stored once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .cache_keys import Key

if TYPE_CHECKING:
    from ..models.kv_cache import Taken

MAX_BYTES = 1024**3  # three conversations about an image with LLaVA 1.5 of 7B parameters in 16 bits
BLOCK = 16  # places


@dataclass(frozen=True, eq=False)
class Segment:
    """Consecutive blocks that were stored together: their hashes, and their keys and values."""

    hashes: tuple[int, ...]
    taken: Taken

    @property
    def num_bytes(self) -> int:
        return self.taken.num_bytes

    def blocks(self, start: int, end: int) -> Taken:
        """Return the keys and values of blocks start .. end."""
        return self.taken.between(start * BLOCK, end * BLOCK)


@dataclass(frozen=True)
class Found:
    """Blocks start .. end of a segment."""

    segment: Segment
    start: int
    end: int


class PrefixStore:
    """Blocks by hash. The least recently used segments are dropped beyond max_bytes.

    It belongs to one version of a model's weights. is_long: sequences are kept apart by their rotary scaling, see
    `language.positions`, because rotated keys differ.
    """

    def __init__(self, max_bytes: int = MAX_BYTES):
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._blocks: dict[int, tuple[Segment, int, tuple[Key, ...]]] = {}
        self._segments: OrderedDict[Segment, None] = OrderedDict()  # the last used at the end

    def clear(self) -> None:
        """Forget everything."""
        self._blocks, self._segments, self.num_bytes = {}, OrderedDict(), 0

    def find(self, keys: Sequence[Key], is_long: bool) -> tuple[int, list[Found]]:
        """Return how many places at the start of keys are known, and where their blocks are."""
        found: list[Found] = []
        number = 0
        for code, block in _hashes(keys, is_long):
            segment, place, known = self._blocks.get(code, (None, 0, ()))
            if known != block:
                break
            if found and found[-1].segment is segment and found[-1].end == place:
                found[-1] = Found(segment, found[-1].start, place + 1)
            else:
                found.append(Found(segment, place, place + 1))
            number += BLOCK
        # Backward, so that a segment is dropped before those that it continues.
        for each in reversed(found):
            self._segments.move_to_end(each.segment)
        return number, found

    def keep(self, keys: Sequence[Key], is_long: bool, take: Callable[[int, int], Taken]) -> None:
        """Store the whole blocks of keys that are not known. take: copies places start .. end of the cache."""
        number, _ = self.find(keys, is_long)
        fresh = list(_hashes(keys, is_long))[number // BLOCK :]
        if not fresh or self.max_bytes <= 0:
            return
        segment = Segment(tuple(code for code, _ in fresh), take(number, number + len(fresh) * BLOCK))
        for place, (code, block) in enumerate(fresh):
            self._blocks[code] = (segment, place, block)
        self._segments[segment] = None
        self.num_bytes += segment.num_bytes
        while self.num_bytes > self.max_bytes:
            self._drop(next(iter(self._segments)))

    def _drop(self, segment: Segment) -> None:
        del self._segments[segment]
        self.num_bytes -= segment.num_bytes
        for code in segment.hashes:
            if self._blocks[code][0] is segment:
                del self._blocks[code]


def _hashes(keys: Sequence[Key], is_long: bool) -> Iterator[tuple[int, tuple[Key, ...]]]:
    """Yield the hash of each whole block and of all before it, with the block's keys."""
    code = hash(is_long)
    for start in range(0, len(keys) - BLOCK + 1, BLOCK):
        block = tuple(keys[start : start + BLOCK])
        code = hash((code, block))
        yield code, block
