"""The cards that share one decoder, one process each, and what they send to each other.

All cards read the same batch. A column layer has some of the outputs, so that its input is the same on all cards and
the gradient of that input is a sum over the cards. A row layer has some of the inputs, and its output is such a sum
(Shoeybi et al. 2019, arXiv:1909.08053). Plain collectives are used: they run on every device, on CPUs too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import paddle
from paddle.autograd import PyLayer

from ...ops.kernel_checks import is_trained


@dataclass(frozen=True)
class Cards:
    """This process's place among those that share a decoder. group: Paddle's group of them, in the order of ranks."""

    rank: int
    degree: int
    group: Any

    @property
    def first(self) -> int:
        """The number of the first card among all processes."""
        return self.group.ranks[0]

    def bounds(self, size: int, rank: int | None = None) -> tuple[int, int]:
        """Return where the part of a card begins and ends in an axis of `size`; parts differ by 1 at most."""
        rank = self.rank if rank is None else rank
        return size * rank // self.degree, size * (rank + 1) // self.degree


def join() -> Cards:
    """Return the cards of all processes that were started together, see `paddle.distributed.launch`."""
    paddle.distributed.init_parallel_env()
    number = paddle.distributed.get_world_size()
    return Cards(paddle.distributed.get_rank(), number, paddle.distributed.new_group(list(range(number))))


class _Copied(PyLayer):
    @staticmethod
    def forward(ctx, x, cards: Cards):
        ctx.cards = cards
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return _total(gradient, ctx.cards)


class _Summed(PyLayer):
    @staticmethod
    def forward(ctx, x, cards: Cards):
        return _total(x, cards)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.clone()


def copied(x, cards: Cards | None):
    """Return a tensor that is equal on all cards and used by each in another way: its gradient is their sum."""
    return x if cards is None or not is_trained(x) else _Copied.apply(x, cards)


def summed(x, cards: Cards | None, bias=None):
    """Return the sum of the cards' tensors, the same on all of them, whose gradient is the same too.

    bias: what every card has added, and which belongs into the sum once.
    """
    if cards is None:
        return x
    total = _Summed.apply(x, cards) if is_trained(x) else _total(x, cards)
    if bias is None:
        return total
    # Detached: each card's own bias gets the whole gradient from the sum already.
    return total - (bias.detach() * (cards.degree - 1)).astype(total.dtype)


@paddle.no_grad()
def maximum(x, cards: Cards):
    """Return the maximum of the cards' tensors, without a gradient."""
    return _total(x, cards, paddle.distributed.ReduceOp.MAX)


@paddle.no_grad()
def gathered(x, cards: Cards, size: int, axis: int):
    """Return the cards' parts side by side, without a gradient. size: of the axis in the whole."""
    widths = [stop - start for start, stop in (cards.bounds(size, rank) for rank in range(cards.degree))]
    if num_more := max(widths) - x.shape[axis]:  # collectives take equal shapes
        shape = [num_more if number == axis else length for number, length in enumerate(x.shape)]
        x = paddle.concat([x, paddle.zeros(shape, x.dtype)], axis=axis)
    parts: list = []
    paddle.distributed.all_gather(parts, x.contiguous(), group=cards.group)
    return paddle.concat([_first(part, width, axis) for part, width in zip(parts, widths, strict=True)], axis=axis)


def whole_size(part, axis: int, cards: Cards) -> int:
    """Return the length of the whole tensor's axis. All cards must call it."""
    length = paddle.to_tensor([part.shape[axis]], dtype="int64")
    paddle.distributed.all_reduce(length, group=cards.group)
    return int(length)


def _first(x, width: int, axis: int):
    num_more = x.shape[axis] - width
    return paddle.split(x, [width, num_more], axis=axis)[0] if num_more else x


def _total(x, cards: Cards, kind=paddle.distributed.ReduceOp.SUM):
    total = x.clone()  # the reduction is in place, and others may use x
    paddle.distributed.all_reduce(total, op=kind, group=cards.group)
    return total
