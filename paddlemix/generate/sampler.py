"""From the logits of one position to a token id. Runs on the host in float32, with equal results on every device."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np

from .adjustment import Adjustment
from .sampling import SamplingParams

NUM_SORTED = 1024  # tokens to sort at first


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
    """Chooses the tokens of one answer, with its own random state.

    prompt_ids: for the repetition penalty. end_ids: cannot be chosen before min_new_tokens.
    """

    def __init__(self, params: SamplingParams, prompt_ids: Iterable[int] = (), end_ids: Collection[int] = ()):
        self.params = params
        self.random = np.random.default_rng(params.seed)
        self._adjustment = Adjustment(params, prompt_ids, end_ids) if _is_adjusting(params) else None

    @property
    def needs_highest_only(self) -> bool:
        """Whether the highest logit is all that the answer needs."""
        is_greedy = self.params.temperature == 0 and self.params.num_logprobs is None
        return is_greedy and self._adjustment is None

    def __call__(self, logits: np.ndarray | Highest, allowed: np.ndarray | None = None) -> int:
        """Choose from logits float32 [vocab], greedily also from the highest of them.

        allowed: bool [vocab], the tokens that may come; None for all. Raises FloatingPointError if the logits are not
        finite, and ValueError if no token may come.
        """
        is_highest = isinstance(logits, Highest)
        if not np.isfinite(logits.logit if is_highest else logits.max()):
            raise FloatingPointError("the model's logits are not finite: its weights or its dtype are at fault")
        if self._adjustment is not None:
            logits = self._adjustment(logits, allowed)
        if self.params.temperature == 0:
            return logits.token if is_highest else int(logits.argmax())
        with np.errstate(over="ignore"):  # at a temperature near 0, all but the highest are -inf
            scaled = (logits - logits.max()).astype(np.float64) / self.params.temperature
        return _draw(scaled, self.params, self.random.random())

    def append(self, token: int) -> None:
        """Note a token of the answer, for the penalties."""
        if self._adjustment is not None:
            self._adjustment.append(token)


def _is_adjusting(params: SamplingParams) -> bool:
    """Return whether logits are changed before a token is chosen from them."""
    numbers = (params.frequency_penalty, params.presence_penalty, params.min_new_tokens, params.repetition_penalty - 1)
    return any(numbers) or bool(params.logit_bias) or params.grammar is not None


def _draw(logits: np.ndarray, params: SamplingParams, number: float) -> int:
    """Return the token at a number in [0, 1) of the distribution, in which the likeliest tokens come first.

    logits: the highest is 0. The tokens that top_k, then top_p (Holtzman et al. 2020), then min_p (Nguyen et al. 2024)
    leave are the first ones. Sorting the whole vocabulary takes longer than all else, and the first ones mostly do.
    """
    most = min(params.top_k or len(logits), len(logits))
    order = _likeliest(logits, min(most, params.top_k or NUM_SORTED))
    weights = np.exp(logits[order])
    total = weights.sum() if len(order) == most else np.exp(logits).sum()
    keep = _num_kept(weights / total, params)
    if keep == len(order) < most:  # there may be more
        sums = weights.cumsum()
        if params.top_p == 1 and not params.min_p and number * total < sums[-1]:
            return int(order[sums.searchsorted(number * total, side="right")])
        order = _likeliest(logits, most)
        weights = np.exp(logits[order])
        keep = _num_kept(weights / weights.sum(), params)
    sums = weights[:keep].cumsum()
    return int(order[min(sums.searchsorted(number * sums[-1], side="right"), keep - 1)])


def _likeliest(logits: np.ndarray, number: int) -> np.ndarray:
    """Return this many tokens of the highest logits, the highest first, and of equal ones the lowest id first."""
    if number < len(logits):
        lowest = np.partition(logits, len(logits) - number)[len(logits) - number]
        found = np.flatnonzero(logits >= lowest)
    else:
        found = np.arange(len(logits))
    return found[np.argsort(-logits[found], kind="stable")][:number]


def _num_kept(weights: np.ndarray, params: SamplingParams) -> int:
    """Return how many of the first tokens top_p and min_p leave. weights: probabilities, the highest first."""
    keep = np.count_nonzero(weights)
    if params.top_p < 1:
        keep = min(keep, max(int((weights.cumsum() - weights < params.top_p).sum()), 1))
    if params.min_p:
        keep = min(keep, int((weights >= params.min_p * weights[0]).sum()))
    return keep
