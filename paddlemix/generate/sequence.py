"""One prompt and its answer, while an engine generates it. Knows no model and no other sequence."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..image.preprocess import ImageTiles
from .cache_keys import Key
from .grammar import Guide
from .logprobs import TokenLogprobs, token_logprobs
from .lookup import Lookup
from .sampler import Highest, Sampler
from .sampling import SamplingParams
from .stream import StreamDecoder


@dataclass(frozen=True)
class Ending:
    """When an answer ends, and the text of its ids.

    stop_ids: ids that end it. kept_ids: those of them that stay in the answer, which is then closed. decoder: makes
    text of the ids and finds stop strings; None for an answer of ids only. closing_texts: stop strings that close it.
    num_known: size of the vocabulary; later logits are of padding of the weights. None for all logits. guide: says
    which tokens may come, for answers with a grammar.
    """

    stop_ids: frozenset[int] = frozenset()
    kept_ids: frozenset[int] = frozenset()
    decoder: StreamDecoder | None = None
    closing_texts: tuple[str, ...] = ()
    num_known: int | None = None
    guide: Guide | None = None


@dataclass(eq=False)
class Sequence:
    """A prompt, and the answer so far.

    keys: of the prompt and of the answer's tokens. images: by content key, of the prompt's. room: how many tokens fit
    into the model's context after the prompt. finish_reason: None while the answer is open, then "stop", "length"
    (max_new_tokens), "context" (the context is full), "interrupted" (canceled) or "error", with the error.
    stop_reason: the id or string of the sampling parameters that ended it, None for the model's own end.
    is_closed: the answer ended with its end mark. logprobs: of each generated token, the last one included even if it
    is not in the answer. slot: of the cache. num_cached: prompt positions that were known when the sequence first got
    a slot. num_prefilled: prompt positions that were computed, not known before. num_passes: forward passes through
    the decoder that this sequence took part in. arrived, started (its first slot), first_token, ended: seconds of
    `time.monotonic`, None before.
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
    stop_reason: int | str | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    error: Exception | None = None
    slot: int | None = None
    features: dict[str, Any] = field(default_factory=dict)
    num_cached: int = 0
    num_prefilled: int = 0
    num_passes: int = 0
    num_generated: int = 0
    arrived: float | None = None
    started: float | None = None
    first_token: float | None = None
    ended: float | None = None

    def __post_init__(self):
        if self.sampling.grammar is not None and self.ending.guide is None:
            raise ValueError("a grammar needs the text of tokens: ask with a processor, as a ChatSession does")
        self.num_prompt = len(self.keys)
        self.budget = min(self.sampling.max_new_tokens, self.room)
        prompt_ids = (key for key in self.keys if isinstance(key, int))
        self.sampler = Sampler(self.sampling, prompt_ids, self.ending.stop_ids)
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

    def check_ids(self, num_vocabulary: int) -> None:
        """Raise ValueError for an id of the sampling parameters that is outside of the vocabulary."""
        number = self.ending.num_known or num_vocabulary
        biased = [token for token, _ in self.sampling.logit_bias]
        for name, ids in (("logit_bias", biased), ("stop_ids", self.sampling.stop_ids)):
            if max(ids, default=0) >= number:
                raise ValueError(f"{name} has token id {max(ids)}: the vocabulary has {number} tokens")

    def guesses(self) -> list[int]:
        """Return tokens that may come next, or none; see `lookup`."""
        # Only where all of them fit, so that passes have few lengths.
        fits = self.lookup is not None and self.sampling.lookup < self.num_left
        return self.lookup.guess(self.sampling.lookup) if fits else []

    def choose(self, logits) -> int:
        """Choose the next token from logits float32 [vocab] or the highest of them, see `Sampler`."""
        if isinstance(logits, Highest):
            return self.sampler(logits)
        logits = logits[: self.ending.num_known]
        guide = self.ending.guide
        token = self.sampler(logits) if guide is None else self.sampler(logits, guide.allowed()[: len(logits)])
        if self.sampling.num_logprobs is not None:
            self.logprobs.append(token_logprobs(logits, token, self.sampling.num_logprobs))
        return token

    def append(self, token: int) -> str:
        """Append the next token; return new text, often empty."""
        ending = self.ending
        self.num_generated += 1
        if self.first_token is None:
            self.first_token = time.monotonic()
        self.sampler.append(token)
        if token in ending.stop_ids:
            self.stop_reason = token if token in self.sampling.stop_ids else None
            self.is_closed = token in ending.kept_ids
            if self.is_closed:
                self._extend(token)
            return self._finish("stop")
        self._extend(token)
        may_stop = self.num_generated >= self.sampling.min_new_tokens
        text = ending.decoder.append(token, may_stop=may_stop) if ending.decoder else ""
        self.text += text
        if ending.decoder and ending.decoder.is_stopped:
            stop = ending.decoder.stop_string
            self.is_closed = stop in ending.closing_texts
            self.stop_reason = stop if stop in self.sampling.stop else None
            return text + self._finish("stop")
        if ending.guide is not None:
            ending.guide.append(token)
            if ending.guide.is_complete:
                return text + self._finish("stop")
        if self.num_left > 0:
            return text
        return text + self._finish("length" if self.budget == self.sampling.max_new_tokens else "context")

    def interrupt(self) -> None:
        """End an open answer where it is. Text that is held back stays out of it."""
        if self.is_open:
            self._end("interrupted")

    def fail(self, error: Exception) -> None:
        """End the answer with an error, which the caller of `Engine.stream` gets."""
        self.error = error
        self._end("error")

    def _extend(self, token: int) -> None:
        self.answer_ids.append(token)
        self.keys.append(token)
        if self.lookup is not None:
            self.lookup.append([token])

    def _end(self, reason: str) -> None:
        self.finish_reason, self.ended = reason, time.monotonic()

    def _finish(self, reason: str) -> str:
        self._end(reason)
        rest = self.ending.decoder.finish() if self.ending.decoder else ""
        self.text += rest
        return rest
