"""Speculative decoding of one row by prompt lookup: guesses the next tokens from the text so far.

Where the last few tokens occurred before, the tokens that followed them may follow again. The guesses are read together
with the chosen token, which costs little more than reading that alone, because the weights are read once. Each guess
that is then chosen saves a pass. At the first wrong guess the cache is trimmed. Tokens are always chosen from the
logits after the true text, so that the answer is the one without guesses, greedy or sampled.
The idea is Saxena's "Prompt Lookup Decoding" (2023).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .cache_keys import Key
from .engine import Engine

WIDTHS = (3, 2)  # numbers of last tokens to look up; the first that occurred before is used


class Lookup:
    """Finds where the last tokens of a text occurred before, in constant time."""

    def __init__(self):
        self._keys: list[Key] = []
        self._after: dict[tuple[Key, ...], int] = {}  # the place after the last occurrence of these keys

    def append(self, keys: Sequence[Key]) -> None:
        """Append to the text."""
        for key in keys:
            place = len(self._keys)
            for width in WIDTHS:
                if place >= width:
                    self._after[tuple(self._keys[place - width :])] = place
            self._keys.append(key)

    def guess(self, number: int) -> list[int]:
        """Return this many tokens that may come next, or none. A text that repeats itself is continued likewise."""
        for width in WIDTHS:
            start = self._after.get(tuple(self._keys[-width:]))
            if start is not None:
                period = len(self._keys) - start
                guesses = [self._keys[start + place % period] for place in range(number)]
                return guesses if all(isinstance(key, int) for key in guesses) else []
        return []


class Speculation:
    """Reads chosen tokens one by one into an engine of one row and returns the logits after each.

    read_keys: keys of the tokens that were read; appended to. The engine may contain guesses after them. num_guesses:
    tokens to guess at a time. limit: the maximum number of positions.
    """

    def __init__(self, engine: Engine, read_keys: list[Key], num_guesses: int, limit: int):
        self.engine = engine
        self.read_keys = read_keys
        self.num_guesses = num_guesses
        self.limit = limit
        self._pending: list[tuple[int, np.ndarray]] = []  # guesses that were read, and the logits after each
        self._lookup = Lookup()
        self._lookup.append(read_keys)

    def read(self, token: int) -> np.ndarray:
        """Return the logits [vocab] after a token."""
        self._lookup.append([token])
        if self._pending and self._pending[0][0] == token:
            _, logits = self._pending.pop(0)
        else:
            logits = self._read_with_guesses(token)
        self.read_keys.append(token)
        return logits

    def _read_with_guesses(self, token: int) -> np.ndarray:
        start = len(self.read_keys)
        if self._pending:
            self.engine.cache.trim(start)
            self._pending = []
        # Guesses are made only where all of them fit, so that passes have two lengths only.
        has_room = start + 1 + self.num_guesses <= self.limit
        guesses = self._lookup.guess(self.num_guesses) if has_room else []
        if not guesses:
            return self.engine.read_ids([token], np.array([[start]]))[0]
        logits = self.engine.read_several([token, *guesses], start)
        self._pending = list(zip(guesses, logits[1:], strict=True))
        return logits[0]
