"""Cross-entropy of the trained tokens, computed without the logits of the whole batch in memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.distributed.fleet.utils import recompute

from ..constants import IGNORE_INDEX
from ..device import bucketed_length
from .parallel.cards import Cards
from .parallel.vocabulary import cut_cross_entropy

WHOLE_LOSSES = partial(F.cross_entropy, reduction="none")  # of logits of the whole vocabulary
MAX_LOGITS = 1 << 26  # elements of float32 logits at a time: 256 MB


def weighted_loss(
    hidden,
    labels: np.ndarray,
    weights: np.ndarray | None,
    logits: Callable,
    vocab_size: int,
    *,
    is_once: bool = False,
    cards: Cards | None = None,
):
    """Return the sum of weight * cross-entropy over the trained tokens, a scalar in float32.

    hidden [B, T, H]; labels int64 [B, T], not shifted, -100 = not trained; weights float32 [B, T] of each label, or
    None for the mean over the batch's trained tokens; logits: the head, [n, H] to [n, vocab_size]. The head is
    applied only to positions that predict a trained token. If their logits have more than MAX_LOGITS elements, it is
    applied to one part at a time, and again in the backward pass. is_once: call the head exactly once, even if nothing
    is trained. cards: those that share the head, which then returns the logits of this card's part of the vocabulary.
    A logit that is not finite makes the loss NaN, on every device.
    """
    targets = np.asarray(labels)[:, 1:]
    rows, columns = np.nonzero(targets != IGNORE_INDEX)
    if not len(rows) and is_once:  # one token, with weight 0
        rows, columns, targets = np.zeros([1], "int64"), np.zeros([1], "int64"), np.zeros_like(targets)
        weights = np.zeros(labels.shape, "float32")
    elif not len(rows):
        return hidden.astype("float32").sum() * 0.0
    places, targets = rows * hidden.shape[1] + columns, targets[rows, columns]
    if weights is None:
        weight = np.full(len(rows), 1 / len(rows), dtype=np.float32)
    else:
        weight = np.asarray(weights, dtype=np.float32)[:, 1:][rows, columns]
    # Positions that pad to a bucketed shape have weight 0.
    num_more = bucketed_length(len(rows)) - len(rows)
    places, targets, weight = (np.pad(values, (0, num_more)) for values in (places, targets, weight))
    # Gathered by an embedding lookup, because every device has forward and backward kernels for it in every dtype,
    # unlike for gather.
    chosen = F.embedding(paddle.to_tensor(places), hidden.reshape([-1, hidden.shape[-1]]))
    size = chosen.shape[0] if is_once else max(1, MAX_LOGITS // vocab_size)
    losses_of = WHOLE_LOSSES if cards is None else partial(cut_cross_entropy, vocab_size=vocab_size, cards=cards)
    return _sum_in_parts(chosen, paddle.to_tensor(targets), paddle.to_tensor(weight), logits, size, losses_of)


def _sum_in_parts(hidden, targets, weights, logits: Callable, size: int, losses_of: Callable):
    """Return the weighted sum over hidden [n, H], targets int64 [n] and weights float32 [n], `size` at a time."""

    def part_sum(part, part_targets, part_weights):
        scores = logits(part).astype("float32")
        losses = losses_of(scores, part_targets)
        total = (losses.reshape([-1]) * part_weights).sum()
        with paddle.amp.auto_cast(enable=False):  # a sum in 16 bits would change the loss, or be infinite itself
            return total + _nan_unless_finite(scores)

    num_tokens = hidden.shape[0]
    if num_tokens <= size:
        return part_sum(hidden, targets, weights)
    total = None
    for start in range(0, num_tokens, size):
        parts = (hidden[start : start + size], targets[start : start + size], weights[start : start + size])
        part = recompute(part_sum, *parts) if not hidden.stop_gradient else part_sum(*parts)
        total = part if total is None else total + part
    return total


@paddle.no_grad()
def _nan_unless_finite(logits):
    """Return 0, or NaN where a logit is NaN or infinite.

    NOTE: Paddle's softmax on the CPU clips its exponents, so that the cross-entropy of logits that are all NaN or
    infinite is ln(vocab_size), with plausible gradients.
    """
    total = logits.detach().sum()
    return total - total
