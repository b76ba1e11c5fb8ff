"""The settings of an answer: how to choose its tokens and when to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Grammar:
    """What an answer must match: any JSON object, or with a schema (JSON text) what the schema describes."""

    schema: str | None = None


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens and when to stop.

    temperature 0 is greedy. top_p in (0, 1]; top_k 0 is no limit. stop: strings that end an answer. seed None draws a
    new seed. ignore_eos: continue to max_new_tokens after an end token. lookup: how many tokens a chat guesses at a
    time from the text so far, 0 for none; this changes the speed but not the answer, see `lookup`.
    min_p in [0, 1]: drop tokens less likely than this part of the likeliest one. repetition_penalty in [0.01, 100],
    with which no logit overflows: of tokens of prompt and answer (CTRL, Keskar et al. 2019). frequency_penalty,
    presence_penalty in [-2, 2]: of tokens of the answer (OpenAI's API reference). logit_bias: (token id, addend in
    [-100, 100]) pairs. min_new_tokens: no end before. stop_ids: further ids that end an answer, with ignore_eos too.
    num_logprobs: None for none, else how many of the likeliest tokens are reported beside the chosen one. grammar: what
    the answer must match; it decides where it ends.

    The order: logit_bias, repetition_penalty, frequency_penalty and presence_penalty, then the tokens that cannot come
    (vLLM, `vllm/v1/sample/sampler.py`; transformers, `_get_logits_processor` in `generation/utils.py`, has the first
    two in the same order), temperature, top_k, top_p, min_p (transformers; vLLM drops by min_p first).
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 512
    stop: tuple[str, ...] = ()
    seed: int | None = None
    ignore_eos: bool = False
    lookup: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_new_tokens: int = 0
    stop_ids: tuple[int, ...] = ()
    num_logprobs: int | None = None
    grammar: Grammar | None = None

    def __post_init__(self):
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        object.__setattr__(self, "stop_ids", tuple(self.stop_ids))
        object.__setattr__(self, "logit_bias", tuple((token, addend) for token, addend in self.logit_bias))
        for name, is_good, expected in self._checks():
            if not is_good:
                raise ValueError(f"{name} is {getattr(self, name)}: expected {expected}")

    @property
    def ranges(self) -> dict[str, str]:
        """What is expected of each field, in words."""
        return {name: expected for name, _, expected in self._checks()}

    def _checks(self) -> tuple[tuple[str, bool, str], ...]:
        """Return (field, whether it is good, what is expected) for each field."""
        return (
            ("temperature", _is_in(self.temperature, 0), "a number of at least 0"),
            ("top_p", _is_in(self.top_p, 0, 1) and self.top_p > 0, "a number above 0 and at most 1"),
            ("top_k", _is_in(self.top_k, 0), "at least 0"),
            ("max_new_tokens", _is_in(self.max_new_tokens, 1), "at least 1"),
            ("stop", all(self.stop), "texts that are not empty"),
            ("seed", self.seed is None or _is_in(self.seed, 0), "at least 0"),
            ("lookup", _is_in(self.lookup, 0), "at least 0"),
            ("min_p", _is_in(self.min_p, 0, 1), "a number from 0 to 1"),
            ("repetition_penalty", _is_in(self.repetition_penalty, 0.01, 100), "a number from 0.01 to 100"),
            ("frequency_penalty", _is_in(self.frequency_penalty, -2, 2), "a number from -2 to 2"),
            ("presence_penalty", _is_in(self.presence_penalty, -2, 2), "a number from -2 to 2"),
            (
                "logit_bias",
                all(token >= 0 and _is_in(addend, -100, 100) for token, addend in self.logit_bias),
                "token ids of at least 0 with numbers from -100 to 100",
            ),
            ("min_new_tokens", _is_in(self.min_new_tokens, 0, self.max_new_tokens), "from 0 to max_new_tokens"),
            ("stop_ids", all(token >= 0 for token in self.stop_ids), "token ids of at least 0"),
            ("num_logprobs", self.num_logprobs is None or _is_in(self.num_logprobs, 0), "None or at least 0"),
            ("ignore_eos", not (self.ignore_eos and self.grammar), "False with a grammar, which says where to end"),
        )


def _is_in(number: float, least: float, most: float = math.inf) -> bool:
    """Return whether a number is finite and in a range."""
    return (isinstance(number, int) or math.isfinite(number)) and least <= number <= most
