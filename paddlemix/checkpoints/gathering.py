"""Whole tensors again from the parts of the cards that share a model, to write them.

One tensor at a time, so that no card and no host ever has all whole tensors. `parts` goes the other way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import paddle
from paddle import Tensor

from ..models.parallel.cards import Cards, gathered, whole_size
from ..models.parallel.cuts import axis_of

END = -1  # instead of a tensor's number: nothing more is gathered


def whole_tensors(tensors: Mapping[str, Tensor], cards: Cards | None) -> dict[str, Tensor]:
    """Return tensors, each cut one gathered from all cards. All cards must call it, with the same names."""
    if cards is None:
        return dict(tensors)
    return {name: _whole(name, tensors[name], cards) for name in sorted(tensors)}


def _whole(name: str, tensor: Tensor, cards: Cards) -> Tensor:
    axis = axis_of(name)
    return tensor if axis is None else gathered(tensor.detach(), cards, whole_size(tensor, axis, cards), axis)


@contextmanager
def gathering(parameters: Mapping[str, Tensor], cards: Cards | None) -> Iterator[Callable[[str], Tensor] | None]:
    """Yield a function that returns a parameter whole, in the first card; None in the others, which help meanwhile.

    All cards must enter it, with the same parameters. The others leave when the first does, with an error too.
    """
    if cards is None:
        yield parameters.__getitem__
        return
    names = list(parameters)
    if cards.rank:
        while (number := _agreed(0, cards)) != END:
            _whole(names[number], parameters[names[number]], cards)
        yield None
        return

    def read(name: str) -> Tensor:
        if axis_of(name) is None:
            return parameters[name]
        _agreed(names.index(name), cards)
        return _whole(name, parameters[name], cards)

    try:
        yield read
    finally:
        _agreed(END, cards)


def _agreed(number: int, cards: Cards) -> int:
    """Return the first card's number, in all cards."""
    tensor = paddle.to_tensor([number], dtype="int64")
    paddle.distributed.broadcast(tensor, src=cards.first, group=cards.group)
    return int(tensor)
