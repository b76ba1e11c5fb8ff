"""Prompt lookup: guesses the next tokens of an answer from the text so far.

Where the last few tokens occurred before, the tokens that followed them may follow again. The guesses are computed
together with the chosen token, which costs little more than that token alone, because the weights are read once. Each
guess that is then chosen saves a pass. Tokens are always chosen from the logits after the true text, so that the answer
is the one without guesses, greedy or sampled. The idea is Saxena's "Prompt Lookup Decoding" (2023).
"""

from __future__ import annotations

from collections.abc import Sequence

from .cache_keys import Key

WIDTHS = (3, 2)  # numbers of last tokens to look up; the first that occurred before is used


class Lookup:
    """Finds where the last tokens of a text occurred before, in constant time."""

    def __init__(self, keys: Sequence[Key] = ()):
        self._keys: list[Key] = []
        self._after: dict[tuple[Key, ...], int] = {}  # the place after the last occurrence of these keys
        self.append(keys)

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
