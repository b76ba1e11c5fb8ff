"""Reads the tokens that were chosen for one row, and guesses the next ones from the text so far (prompt lookup).

Where the last few tokens occurred before, what followed them then may follow now. The guesses are read together with
the chosen token, which costs little more than reading it alone, since the weights are fetched once. Each guess that is
then really chosen saves a pass; at the first one that is not, the cache is cut back. What is chosen always comes from
the logits after the true text, so that the answer is the one without guessing, greedy or drawn.
The idea is Saxena's "Prompt Lookup Decoding" (2023).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .cache_keys import Key
from .engine import Engine

WIDTHS = (3, 2)  # how many last tokens are looked up, the first that is found


class Lookup:
    """Finds where the last tokens of a text occurred before. Costs the same at every length."""

    def __init__(self):
        self._keys: list[Key] = []
        self._after: dict[tuple[Key, ...], int] = {}  # where the text went on after these keys, the last time

    def put(self, keys: Sequence[Key]) -> None:
        """Append to the text."""
        for key in keys:
            place = len(self._keys)
            for width in WIDTHS:
                if place >= width:
                    self._after[tuple(self._keys[place - width :])] = place
            self._keys.append(key)

    def guess(self, number: int) -> list[int]:
        """Return so many tokens that may come next, or none. A text that repeats itself is taken to go on so."""
        for width in WIDTHS:
            start = self._after.get(tuple(self._keys[-width:]))
            if start is not None:
                period = len(self._keys) - start
                guesses = [self._keys[start + place % period] for place in range(number)]
                return guesses if all(isinstance(key, int) for key in guesses) else []
        return []


class Continuation:
    """Reads one chosen token after the other into an engine of one row and gives the logits that follow.

    held: keys of what is read and chosen, appended to; the engine may hold guesses beyond. num_guesses: how many are
    read with a token where something is found, 0 for none. limit: how many places there will be at most.
    """

    def __init__(self, engine: Engine, held: list[Key], num_guesses: int, limit: int):
        self.engine = engine
        self.held = held
        self.num_guesses = num_guesses
        self.limit = limit
        self._waiting: list[tuple[int, np.ndarray]] = []  # guesses that were read, and the logits after each
        self._lookup = Lookup()
        self._lookup.put(held if num_guesses else ())

    def read(self, token: int) -> np.ndarray:
        """Return the logits [vocab] after a token."""
        if self.num_guesses:
            self._lookup.put([token])
        if self._waiting and self._waiting[0][0] == token:
            _, logits = self._waiting.pop(0)
        else:
            logits = self._read_anew(token)
        self.held.append(token)
        return logits

    def _read_anew(self, token: int) -> np.ndarray:
        start = len(self.held)
        if self._waiting:
            self.engine.cache.trim(start)
            self._waiting = []
        guesses = self._guesses(start)
        if not guesses:
            return self.engine.read_ids([token], np.array([[start]]))[0]
        logits = self.engine.read_several([token, *guesses], start)
        self._waiting = list(zip(guesses, logits[1:], strict=True))
        return logits[0]

    def _guesses(self, start: int) -> list[int]:
        """Return guesses where there is room for all of them, so that passes have two lengths only."""
        end = start + 1 + self.num_guesses
        if not self.num_guesses or end > self.limit or not self.engine.is_read_alike(start, end):
            return []
        return self._lookup.guess(self.num_guesses)
