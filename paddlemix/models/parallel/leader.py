"""One card leads: it alone runs the engine, and the other cards repeat what it computes with the decoder.

Before each operation the leader sends its name and numbers, so that the engine needs to know nothing of other cards,
and every kind of answer works: sampling, streams, canceled answers. The operations are those of a decoder with a cache.
"""

from __future__ import annotations

import functools
import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import paddle

from ...terminal.interrupts import held_interrupts
from ..kv_cache import KVCache, Taken
from .cards import Cards

END = "end"


class Leader:
    """The first card's voice. Safe to use from several threads: one operation at a time."""

    def __init__(self, cards: Cards):
        self.cards = cards
        self.numbers = itertools.count()  # of caches, and of what was taken from them
        self.gone: deque[int] = deque()  # of these, what no longer exists here
        self._lock = threading.RLock()
        self._problem: str | None = None

    def forget(self, number: int) -> None:
        """Note that something is gone; the others learn it with the next operation."""
        self.gone.append(number)

    def compute(self, name: str, work: Callable[[], Any], *values: Any) -> Any:
        """Tell the others the operation and its values, and return the result of the same work here.

        A Ctrl-C waits for its end, so that all stay in step. Raises RuntimeError after an operation that failed here:
        the others may still wait within it.
        """
        with self._lock, held_interrupts():
            self.check()
            gone = [self.gone.popleft() for _ in range(len(self.gone))]
            send((name, gone, values), self.cards)
            try:
                return work()
            except Exception as error:
                self._problem = str(error)
                raise

    def check(self) -> None:
        """Raise RuntimeError if the cards are out of step, without waiting for an operation."""
        if self._problem is not None:
            raise RuntimeError(f"the cards are out of step since an error, start again: {self._problem}")

    def end(self) -> None:
        """Let the others leave `follow`."""
        with self._lock:
            if self._problem is None:
                send((END, [], ()), self.cards)


@dataclass(frozen=True, eq=False)
class LedTaken(Taken):
    """The leader's part of what every card has taken. number: of the whole, of which this is start .. end."""

    number: int
    start: int
    end: int

    def between(self, start: int, end: int) -> LedTaken:
        return LedTaken(super().between(start, end).parts, self.number, self.start + start, self.start + end)


class LedCache(KVCache):
    """The leader's part of a cache that every card has a part of."""

    def __init__(self, leader: Leader, sizes: Sequence[int], dtype: str):
        self.leader, self.number = leader, next(leader.numbers)
        make = functools.partial(super().__init__, *sizes, dtype)
        _, num_slots, _, _, capacity = sizes
        leader.compute("new_cache", make, self.number, num_slots, capacity)
        weakref.finalize(self, leader.forget, self.number)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        self._do("copy_prefix", source, target, length)

    def resize(self, slots: Sequence[int | None], capacity: int) -> None:
        self._do("resize", list(slots), capacity)

    def take(self, slot: int, start: int, end: int) -> LedTaken:
        number, work = next(self.leader.numbers), functools.partial(super().take, slot, start, end)
        parts = self._tell("take", work, number, slot, start, end).parts
        taken = LedTaken(parts, number, 0, end - start)
        weakref.finalize(taken, self.leader.forget, number)
        return taken

    def put(self, slot: int, start: int, taken: LedTaken) -> None:
        work = functools.partial(super().put, slot, start, taken)
        self._tell("put", work, slot, start, taken.number, taken.start, taken.end)

    def _do(self, name: str, *values: Any) -> None:
        self._tell(name, functools.partial(getattr(super(), name), *values), *values)

    def _tell(self, name: str, work: Callable[[], Any], *values: Any) -> Any:
        return self.leader.compute(name, work, self.number, self.lengths, self.is_long, *values)


def send(message: tuple, cards: Cards) -> None:
    paddle.distributed.broadcast_object_list([message], src=cards.first, group=cards.group)


def receive(cards: Cards) -> tuple:
    box: list = [None]
    paddle.distributed.broadcast_object_list(box, src=cards.first, group=cards.group)
    return box[0]
