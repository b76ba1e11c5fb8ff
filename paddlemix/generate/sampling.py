"""From the logits of one position to a token id. Runs on the host in float32, with equal results on every device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


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
    min_p in [0, 1]: drop tokens less likely than this part of the likeliest one. repetition_penalty > 0: of tokens of
    prompt and answer (CTRL, Keskar et al. 2019). frequency_penalty, presence_penalty in [-2, 2]: of tokens of the
    answer (OpenAI's API reference). logit_bias: (token id, addend) pairs. min_new_tokens: no end before. stop_ids:
    further ids that end an answer. num_logprobs: None for none, else how many of the likeliest tokens are reported
    beside the chosen one. grammar: what the answer must match.
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
        object.__setattr__(self, "stop", tuple(self.stop))
        checks = (
            ("temperature", self.temperature >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("lookup", self.lookup >= 0, "at least 0"),
        )
        for name, is_good, expected in checks:
            if not is_good:
                raise ValueError(f"{name} is {getattr(self, name)}: expected {expected}")


class Highest(NamedTuple):
    """The highest logit of a position and its token: all that a greedy answer needs from a card."""

    token: int
    logit: float


def highest_of(logits) -> list[Highest]:
    """Return the highest logit of each row of a tensor [N, vocab], which is all that is copied from the device."""
    import paddle  # not above: settings are made without it

    values = logits.astype("float32")
    tokens = values.argmax(axis=-1)
    # In one copy: token ids are exact in float32 below 2 ** 24.
    pairs = paddle.stack([tokens.astype("float32"), values.max(axis=-1)]).numpy()
    return [Highest(int(token), float(logit)) for token, logit in pairs.T]


class Sampler:
    """Chooses the tokens of one answer, with its own random state."""

    def __init__(self, params: SamplingParams):
        self.params = params
        self.random = np.random.default_rng(params.seed)

    def __call__(self, logits: np.ndarray | Highest) -> int:
        """Choose from logits float32 [vocab], greedily also from the highest of them.

        Raises FloatingPointError if they are not finite.
        """
        is_highest = isinstance(logits, Highest)
        if not np.isfinite(logits.logit if is_highest else logits.max()):
            raise FloatingPointError("the model's logits are not finite: its weights or its dtype are at fault")
        if self.params.temperature == 0:
            return logits.token if is_highest else int(logits.argmax())
        order, weights = _candidates((logits - logits.max()).astype(np.float64) / self.params.temperature, self.params)
        return int(order[self.random.choice(len(order), p=weights)])


def _candidates(logits: np.ndarray, params: SamplingParams):
    """Return token ids, likeliest first, and their probabilities after top_k and then top_p (Holtzman et al. 2020)."""
    order = np.argsort(-logits, kind="stable")
    if params.top_k:
        order = order[: params.top_k]
    weights = np.exp(logits[order] - logits[order[0]])
    weights /= weights.sum()
    if params.top_p < 1:
        before = np.cumsum(weights) - weights
        keep = max(int((before < params.top_p).sum()), 1)
        order, weights = order[:keep], weights[:keep]
    return order, weights / weights.sum()
