"""One prompt and its answer, while an engine generates it. Knows no model and no other sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..image.preprocess import ImageTiles
from .cache_keys import Key
from .lookup import Lookup
from .sampling import Highest, Sampler, SamplingParams
from .stream import StreamDecoder


@dataclass(frozen=True)
class Ending:
    """When an answer ends, and the text of its ids.

    stop_ids: ids that end it. kept_ids: those of them that stay in the answer, which is then closed. decoder: makes
    text of the ids and finds stop strings; None for an answer of ids only. closing_texts: stop strings that close it.
    num_known: size of the vocabulary; later logits are of padding of the weights. None for all logits.
    """

    stop_ids: frozenset[int] = frozenset()
    kept_ids: frozenset[int] = frozenset()
    decoder: StreamDecoder | None = None
    closing_texts: tuple[str, ...] = ()
    num_known: int | None = None


@dataclass(eq=False)
class Sequence:
    """A prompt, and the answer so far.

    keys: of the prompt and of the answer's tokens. images: by content key, of the prompt's. room: how many tokens fit
    into the model's context after the prompt. finish_reason: None while the answer is open, then "stop", "length"
    (max_new_tokens), "context" (the context is full), "interrupted" (canceled) or "error", with the error.
    is_closed: the answer ended with its end mark. slot: of the cache. num_prefilled: prompt positions that were
    computed, not known before. num_passes: forward passes through the decoder that this sequence took part in.
    """

    keys: list[Key]
    images: Mapping[str, ImageTiles]
    sampling: SamplingParams
    room: int
    ending: Ending
    answer_ids: list[int] = field(default_factory=list)
    text: str = ""
    is_closed: bool = False
    finish_reason: str | None = None
    error: Exception | None = None
    slot: int | None = None
    features: dict[str, Any] = field(default_factory=dict)
    num_prefilled: int = 0
    num_passes: int = 0
    num_generated: int = 0

    def __post_init__(self):
        self.num_prompt = len(self.keys)
        self.budget = min(self.sampling.max_new_tokens, self.room)
        self.sampler = Sampler(self.sampling)
        self.lookup = Lookup(self.keys) if self.sampling.lookup else None

    @property
    def is_open(self) -> bool:
        return self.finish_reason is None

    @property
    def num_left(self) -> int:
        """How many more tokens may be generated."""
        return self.budget - self.num_generated

    @property
    def max_places(self) -> int:
        """The greatest possible length of prompt and answer."""
        return self.num_prompt + self.budget

    def guesses(self) -> list[int]:
        """Return tokens that may come next, or none; see `lookup`."""
        # Only where all of them fit, so that passes have few lengths.
        fits = self.lookup is not None and self.sampling.lookup < self.num_left
        return self.lookup.guess(self.sampling.lookup) if fits else []

    def choose(self, logits) -> int:
        """Choose the next token from logits float32 [vocab] or the highest of them, see `Sampler`."""
        return self.sampler(logits if isinstance(logits, Highest) else logits[: self.ending.num_known])

    def append(self, token: int) -> str:
        """Append the next token; return new text, often empty."""
        ending = self.ending
        self.num_generated += 1
        if token in ending.stop_ids:
            self.is_closed = token in ending.kept_ids
            if self.is_closed:
                self._extend(token)
            return self._finish("stop")
        self._extend(token)
        text = ending.decoder.append(token) if ending.decoder else ""
        self.text += text
        if ending.decoder and ending.decoder.is_stopped:
            self.is_closed = ending.decoder.stop_string in ending.closing_texts
            return text + self._finish("stop")
        if self.num_left > 0:
            return text
        return text + self._finish("length" if self.budget == self.sampling.max_new_tokens else "context")

    def interrupt(self) -> None:
        """End an open answer where it is. Text that is held back stays out of it."""
        if self.is_open:
            self.finish_reason = "interrupted"

    def fail(self, error: Exception) -> None:
        """End the answer with an error, which the caller of `Engine.stream` gets."""
        self.finish_reason, self.error = "error", error

    def _extend(self, token: int) -> None:
        self.answer_ids.append(token)
        self.keys.append(token)
        if self.lookup is not None:
            self.lookup.append([token])

    def _finish(self, reason: str) -> str:
        self.finish_reason = reason
        rest = self.ending.decoder.finish() if self.ending.decoder else ""
        self.text += rest
        return rest
