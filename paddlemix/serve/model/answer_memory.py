"""The ids of answers that were generated here, so that they need not be made of their text when it comes back.

A client sends the whole conversation with every question. The text of an answer may have other ids than those that were
generated, and after those nothing that was computed for the answer could be used.
"""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_IDS = 1 << 20  # 4 MB
ENTRY_IDS = 64  # what an entry takes besides its ids, in ids


@dataclass(frozen=True)
class KnownAnswer:
    """The ids of an answer, and whether they end with its end mark."""

    ids: tuple[int, ...]
    is_closed: bool


class Context:
    """What comes before an answer: the ids and images of a conversation so far, as a hash that grows with it."""

    def __init__(self):
        self._hash = hashlib.sha256()

    def extend(self, ids: Sequence[int], images: Iterable[str] = ()) -> None:
        """Add ids with the content keys of the images among them."""
        self._hash.update(len(ids).to_bytes(8, "little"))
        self._hash.update(array("q", ids).tobytes())
        self._hash.update("".join(images).encode())

    def digest(self, text: str = "") -> bytes:
        """Return the hash of what was added, followed by a text."""
        copied = self._hash.copy()
        copied.update(text.encode(errors="surrogatepass"))
        return copied.digest()


class AnswerMemory:
    """Answers by the hash of their context and text. The least recently used are dropped beyond max_ids.

    Safe to use from several threads.
    """

    def __init__(self, max_ids: int = MAX_IDS):
        self.max_ids = max_ids
        self.num_ids = 0
        self._answers: OrderedDict[bytes, tuple[array, bool]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._answers)

    def find(self, key: bytes) -> KnownAnswer | None:
        """Return an answer, or None. key: `Context.digest` with the text of the answer."""
        with self._lock:
            if key not in self._answers:
                return None
            self._answers.move_to_end(key)
            ids, is_closed = self._answers[key]
        return KnownAnswer(tuple(ids), is_closed)

    def keep(self, key: bytes, ids: Sequence[int], is_closed: bool) -> None:
        """Keep an answer in place of an earlier one with the same key."""
        with self._lock:
            self._drop(key)
            self._answers[key] = (array("i", ids), is_closed)
            self.num_ids += len(ids) + ENTRY_IDS
            while self.num_ids > self.max_ids:
                self._drop(next(iter(self._answers)))

    def _drop(self, key: bytes) -> None:
        if key in self._answers:
            self.num_ids -= len(self._answers.pop(key)[0]) + ENTRY_IDS
