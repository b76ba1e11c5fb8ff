"""The text of an answer while its ids are generated."""

from __future__ import annotations

from collections.abc import Sequence

from ..conversation.detokenize import TextDecoder
from ..conversation.tokenizer import Tokenizer


class StreamDecoder:
    """Text of an answer while it is generated.

    All returned pieces together are the decoded ids, cut at the stop string that is complete first, without white space
    at both ends. Text that may still change is held back: part of a character, a possible beginning of a stop string,
    and white space that may turn out to be at the end. A step takes time for the text held back, not for the answer.
    is_continuing: the text continues one that was given, so that white space at both ends belongs to it.
    """

    def __init__(self, tokenizer: Tokenizer, stop_strings: Sequence[str] = (), *, is_continuing: bool = False):
        if isinstance(stop_strings, str) or not all(stop_strings):
            raise ValueError(f"stop strings must be a list of non-empty texts, found {stop_strings!r}")
        self._decoder = TextDecoder(tokenizer, is_start=not is_continuing)
        self._is_continuing = is_continuing
        self._stop_strings = tuple(stop_strings)
        self._held_back = ""
        self._has_output = False
        self.stop_string: str | None = None  # the one that ended the answer

    @property
    def is_stopped(self) -> bool:
        return self.stop_string is not None

    def append(self, token_id: int, *, may_stop: bool = True) -> str:
        """Append the next id; return new text, often empty. After a stop string it is always empty.

        may_stop: whether a stop string that this id completes ends the answer.
        """
        return "" if self.is_stopped else self._release(self._decoder.add(token_id), may_stop=may_stop)

    def finish(self) -> str:
        """Return the text held back, when there are no more ids."""
        return "" if self.is_stopped else self._release(self._decoder.finish(), is_last=True)

    def _release(self, text: str, *, is_last: bool = False, may_stop: bool = True) -> str:
        text = self._held_back + text
        self.stop_string = self._find_stop(text) if may_stop else None
        if self.stop_string is not None:
            text, is_last = text[: text.find(self.stop_string)], True
        end = len(text) if is_last else len(text) - self._num_stop_start(text)
        if self._is_continuing:
            self._held_back = "" if is_last else text[end:]
            return text[:end]
        ready = text[:end] if self._has_output else text[:end].lstrip()
        output = ready.rstrip()
        self._held_back = "" if is_last else ready[len(output) :] + text[end:]
        self._has_output = self._has_output or bool(output)
        return output

    def _find_stop(self, text: str) -> str | None:
        """Return the stop string that is complete first (the longer one of two that end together)."""
        found = [stop for stop in self._stop_strings if stop in text]
        return min(found, key=lambda stop: (text.find(stop) + len(stop), text.find(stop)), default=None)

    def _num_stop_start(self, text: str) -> int:
        """Return how many characters at the end may be the beginning of a stop string."""
        longest = max(map(len, self._stop_strings), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) and len(stop) > length for stop in self._stop_strings):
                return length
        return 0
