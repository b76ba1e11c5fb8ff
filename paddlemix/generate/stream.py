"""Generated ids to text that can be printed at once. Knows no model; the caller decides which ids end an answer."""

from __future__ import annotations

from collections.abc import Sequence

from ..conversation.detokenize import TextDecoder
from ..conversation.tokenizer import Tokenizer


class StreamDecoder:
    """Text of an answer while it is generated.

    All returned pieces together are the decoded ids, cut at the stop string that is complete first, without white space
    at both ends. Never returned too early: part of a character, what may become a stop string, and white space that
    may turn out to be the end. Every step costs the length of what is held back, not of the answer.
    """

    def __init__(self, tokenizer: Tokenizer, stop_strings: Sequence[str] = ()):
        if isinstance(stop_strings, str) or not all(stop_strings):
            raise ValueError(f"stop strings must be a list of non-empty texts, found {stop_strings!r}")
        self._decoder = TextDecoder(tokenizer)
        self._stop_strings = tuple(stop_strings)
        self._held = ""
        self._has_output = False
        self.stop_string: str | None = None  # the one that was met

    @property
    def is_stopped(self) -> bool:
        return self.stop_string is not None

    def put(self, token_id: int) -> str:
        """Take the next id; return new text, often empty. After a stop string nothing comes any more."""
        return "" if self.is_stopped else self._release(self._decoder.put(token_id), is_last=False)

    def finish(self) -> str:
        """Return what was held back, when no further id comes."""
        return "" if self.is_stopped else self._release(self._decoder.finish(), is_last=True)

    def _release(self, text: str, *, is_last: bool) -> str:
        held = self._held + text
        self.stop_string = self._find_stop(held)
        if self.stop_string is not None:
            held, is_last = held[: held.find(self.stop_string)], True
        end = len(held) if is_last else len(held) - self._num_stop_start(held)
        ready = held[:end] if self._has_output else held[:end].lstrip()
        output = ready.rstrip()
        self._held = "" if is_last else ready[len(output) :] + held[end:]
        self._has_output = self._has_output or bool(output)
        return output

    def _find_stop(self, text: str) -> str | None:
        """Return the stop string that is complete first (of two that end together, the longer one)."""
        found = [stop for stop in self._stop_strings if stop in text]
        return min(found, key=lambda stop: (text.find(stop) + len(stop), text.find(stop)), default=None)

    def _num_stop_start(self, text: str) -> int:
        """Return how many characters at the end may be the beginning of a stop string."""
        longest = max(map(len, self._stop_strings), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) and len(stop) > length for stop in self._stop_strings):
                return length
        return 0
