"""Changes of logits before a token is chosen from them: biases, penalties, and tokens that may not come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

import numpy as np

from .sampling import SamplingParams


class Adjustment:
    """The adjustments of one answer, in the order that `SamplingParams` says.

    prompt_ids: for the repetition penalty. end_ids: excluded before min_new_tokens.
    """

    def __init__(self, params: SamplingParams, prompt_ids: Iterable[int] = (), end_ids: Collection[int] = ()):
        self._params = params
        self._bias_ids = np.array([token for token, _ in params.logit_bias], dtype=np.int64)
        self._biases = np.array([addend for _, addend in params.logit_bias], dtype=np.float32)
        self._end_ids = np.array(sorted(end_ids), dtype=np.int64)
        self._seen = dict.fromkeys(prompt_ids) if params.repetition_penalty != 1 else {}
        self._counts: Counter[int] = Counter()
        self._num_tokens = 0

    def append(self, token: int) -> None:
        """Note a token of the answer."""
        self._num_tokens += 1
        self._counts[token] += 1
        self._seen[token] = None

    def __call__(self, logits: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
        """Return adjusted logits, a copy of logits float32 [vocab].

        allowed: bool [vocab], None for all. Raises ValueError if no token may come, and for a biased id outside the
        vocabulary.
        """
        if self._bias_ids.size and self._bias_ids.max() >= len(logits):
            raise ValueError(f"logit_bias has token id {self._bias_ids.max()}: the vocabulary has {len(logits)} tokens")
        adjusted = logits.copy()
        np.add.at(adjusted, self._bias_ids, self._biases)
        self._penalize_repetition(adjusted)
        self._penalize_counts(adjusted)
        if allowed is not None:
            adjusted[~allowed] = -np.inf
        if self._num_tokens < self._params.min_new_tokens:
            adjusted[self._end_ids[self._end_ids < len(logits)]] = -np.inf
        if adjusted.max() == -np.inf:
            raise ValueError("no token may come next: the grammar or min_new_tokens excludes all of them")
        return adjusted

    def _penalize_repetition(self, logits: np.ndarray) -> None:
        """Divide the positive logits of tokens that occurred by the penalty, and multiply the negative ones with it."""
        penalty = self._params.repetition_penalty
        if penalty == 1:
            return
        ids = np.fromiter((token for token in self._seen if token < len(logits)), dtype=np.int64)
        found = logits[ids]
        logits[ids] = np.where(found < 0, found * penalty, found / penalty)

    def _penalize_counts(self, logits: np.ndarray) -> None:
        """Subtract count * frequency_penalty + presence_penalty from the logits of the answer's tokens."""
        params = self._params
        if not self._counts or not (params.frequency_penalty or params.presence_penalty):
            return
        ids = np.fromiter(self._counts, dtype=np.int64, count=len(self._counts))
        counts = np.fromiter(self._counts.values(), dtype=np.float32, count=len(self._counts))
        logits[ids] -= counts * params.frequency_penalty + params.presence_penalty
