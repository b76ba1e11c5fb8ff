"""How likely a chosen token was, and which tokens were likeliest in its place."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class TokenLogprobs(NamedTuple):
    """A chosen token with the natural logarithm of its probability, and (token, logprob) of the likeliest, best first.

    Probabilities are those of the model, before temperature, penalties and excluded tokens.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def token_logprobs(logits: np.ndarray, token: int, num_top: int) -> TokenLogprobs:
    """Return the logprobs of a token chosen from logits float32 [vocab], and of the num_top likeliest ones."""
    highest = logits.max()
    # A float32 sum of 100,000 small numbers loses three digits.
    log_sum = float(highest) + float(np.log(np.exp(logits - highest).sum(dtype=np.float64)))
    num_top = min(num_top, len(logits))
    top = np.argpartition(-logits, num_top - 1)[:num_top] if num_top else np.array([], dtype=np.int64)
    top = top[np.lexsort((top, -logits[top]))]
    likeliest = tuple((int(each), float(logits[each]) - log_sum) for each in top)
    return TokenLogprobs(token, float(logits[token]) - log_sum, likeliest)
