"""Beginnings of conversations that were read before, for later sessions.

Many chats begin with the same system text and the same image. A session with a PrefixCache copies the keys and values
of the known beginning of its prompt from there, and stores the beginning that it had to read itself.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from .cache_keys import Key, num_common
from .engine import Engine

MAX_BYTES = 1024**3  # three conversations about an image with LLaVA 1.5 of 7B parameters in 16 bits
MIN_PLACES = 16  # fewer are read as fast as copied


class PrefixCache:
    """Keys and values by the cache keys of their places. The least recently used are dropped beyond max_bytes.

    It belongs to one model: call `clear` when its weights change. Safe to use from several threads.
    """

    def __init__(self, max_bytes: int = MAX_BYTES):
        self.max_bytes = max_bytes
        self.num_bytes = 0
        # Rotated keys differ between long and short sequences (`language.positions`), so entries are kept apart.
        self._heads: OrderedDict[tuple[tuple[bool, ...], tuple[Key, ...]], list] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._heads)

    def clear(self) -> None:
        with self._lock:
            self._heads.clear()
            self.num_bytes = 0

    def load(self, engine: Engine, keys: Sequence[Key]) -> int:
        """Copy the known beginning of keys into an engine of one row; return how many places it then contains.

        Nothing is copied unless that saves MIN_PLACES.
        """
        with self._lock:
            entry, number = self._longest(engine.cache.is_long, keys)
            if number < engine.length + MIN_PLACES:
                return engine.length
            self._heads.move_to_end(entry)
            head = self._heads[entry]
        engine.cache.load(head, number)
        return number

    def keep(self, engine: Engine, keys: Sequence[Key]) -> None:
        """Store what an engine of one row has read of keys: up to the end of the last image, or all without an image.

        Nothing is stored if that much is known already, or for text without an image if MIN_PLACES of it are.
        """
        is_long = engine.cache.is_long
        end = next((place + 1 for place in reversed(range(len(keys))) if not isinstance(keys[place], int)), 0)
        with self._lock:
            if self._longest(is_long, keys)[1] >= (end or MIN_PLACES):
                return
        entry = (is_long, tuple(keys[: end or len(keys)]))
        head = engine.cache.head(len(entry[1]))
        with self._lock:
            if entry not in self._heads:
                self._heads[entry] = head
                self.num_bytes += _size(head)
            while self.num_bytes > self.max_bytes:
                self.num_bytes -= _size(self._heads.popitem(last=False)[1])

    def _longest(self, is_long: tuple[bool, ...], keys: Sequence[Key]) -> tuple[tuple, int]:
        """Return the entry with the longest common prefix with keys, and its length."""
        found = ((entry, num_common(entry[1], keys)) for entry in self._heads if entry[0] == is_long)
        return max(found, key=lambda pair: pair[1], default=((), 0))


def _size(head: list) -> int:
    """Return the bytes of all layers."""
    return sum(int(part.size) * part.element_size() for part in head)
