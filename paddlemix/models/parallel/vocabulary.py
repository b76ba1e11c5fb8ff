"""Embeddings and cross-entropy where each card has a part of the vocabulary."""

from __future__ import annotations

from functools import partial

import paddle
import paddle.nn.functional as F
from paddle import nn

from ..layers import ZERO
from .cards import Cards, maximum, summed
from .leader import Leader


class CutEmbedding(nn.Embedding):
    """The embeddings of a part of the vocabulary; the result is that of the whole, on all cards."""

    def __init__(self, num_rows: int, width: int, cards: Cards):
        self.start, self.stop = cards.bounds(num_rows)
        super().__init__(self.stop - self.start, width, weight_attr=paddle.ParamAttr(initializer=ZERO))
        self.cards = cards
        self.leader: Leader | None = None

    def forward(self, ids):
        if self.leader is None:
            return self._embed(ids)
        return self.leader.compute("embed", partial(self._embed, ids), ids.numpy())

    def _embed(self, ids):
        index, is_here = _places(ids, self.start, self.stop)
        rows = F.embedding(index, self.weight)
        return summed(rows * is_here.unsqueeze(-1).astype(rows.dtype), self.cards)


def cut_cross_entropy(scores, targets, vocab_size: int, cards: Cards):
    """Return the cross-entropy of each row, float32 [n]. scores: this card's float32 [n, part]; targets: int64 [n]."""
    start, stop = cards.bounds(vocab_size)
    shifted = scores - maximum(scores.detach().max(axis=-1, keepdim=True), cards)
    total = summed(shifted.exp().sum(axis=-1), cards)
    index, is_here = _places(targets, start, stop)
    rows = paddle.arange(len(targets), dtype="int64") * (stop - start)
    # By an embedding lookup, for which every device has kernels, see `loss`.
    chosen = F.embedding(rows + index, shifted.reshape([-1, 1])).reshape([-1])
    return total.log() - summed(chosen * is_here.astype("float32"), cards)


def _places(ids, start: int, stop: int):
    """Return the rows of ids in the part from start to stop, 0 for ids elsewhere, and 1 or 0 for these; both int64."""
    is_here = paddle.logical_and(ids >= start, ids < stop).astype("int64")
    return (ids - start) * is_here, is_here
