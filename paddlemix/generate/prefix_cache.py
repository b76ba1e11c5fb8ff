"""Beginnings of conversations that were read already, for the sessions that come later.

Many chats begin with the same system text and the same picture. A session that is given a PrefixCache takes what is
known of its first prompt from there, as copies, and leaves there what it had to read itself.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from .cache_keys import Key, num_common
from .engine import Engine

MAX_BYTES = 1024**3  # three conversations about a picture with LLaVA 1.5 of 7B parameters in 16 bits
MIN_PLACES = 16  # fewer are read as fast as copied


class PrefixCache:
    """Keys and values by the keys of their places; the ones used longest ago leave when there are too many bytes.

    It belongs to one model whose weights stay as they are: `clear` it when they change. May be used by several threads.
    """

    def __init__(self, max_bytes: int = MAX_BYTES):
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._heads: OrderedDict[tuple[Key, ...], list] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._heads)

    def clear(self) -> None:
        with self._lock:
            self._heads.clear()
            self.num_bytes = 0

    def load(self, engine: Engine, keys: Sequence[Key]) -> int:
        """Bring what is known of keys into an engine of one row; return how many of them it holds then.

        Nothing is done unless that gains MIN_PLACES.
        """
        with self._lock:
            known, number = self._longest(keys)
            if number < engine.length + MIN_PLACES or not engine.has_plain_cache:
                return engine.length
            self._heads.move_to_end(known)
            head = self._heads[known]
        engine.cache.load(head, number)
        return number

    def keep(self, engine: Engine, keys: Sequence[Key]) -> None:
        """Keep what an engine of one row has read of keys: up to the end of the last picture, or all without one.

        Nothing is done where that much is known, and for a text alone where its beginning is.
        """
        if not engine.has_plain_cache:
            return
        end = next((place + 1 for place in reversed(range(len(keys))) if not isinstance(keys[place], int)), 0)
        with self._lock:
            if self._longest(keys)[1] >= (end or MIN_PLACES):
                return
        name = tuple(keys[: end or len(keys)])
        head = engine.cache.head(len(name))
        with self._lock:
            if name not in self._heads:
                self._heads[name] = head
                self.num_bytes += _size(head)
            while self.num_bytes > self.max_bytes:
                self.num_bytes -= _size(self._heads.popitem(last=False)[1])

    def _longest(self, keys: Sequence[Key]) -> tuple[tuple[Key, ...], int]:
        """Return the entry that has most in common with keys, and how much."""
        found = ((known, num_common(known, keys)) for known in self._heads)
        return max(found, key=lambda pair: pair[1], default=((), 0))


def _size(head: list) -> int:
    """Return the bytes of all layers."""
    return sum(int(part.size) * part.element_size() for part in head)
