"""Rows of tensors in another order and at another place, by slices and concatenation alone.

Every device does those natively in every dtype and with static shapes, which is not so for a gather.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle


def take_rows(tensor, rows: Sequence[int]):
    """Return the rows [len(rows), ...] of a tensor [B, ...] in this order; a row may come several times."""
    starts = [place for place, row in enumerate(rows) if place == 0 or row != rows[place - 1] + 1]
    ends = [*starts[1:], len(rows)]
    pieces = [tensor[rows[start] : rows[end - 1] + 1] for start, end in zip(starts, ends, strict=True)]
    return pieces[0] if len(pieces) == 1 else paddle.concat(pieces)


def take_shifted(tensor, rows: Sequence[int], shifts: Sequence[int], length: int, axis: int):
    """Return rows as `take_rows`, each moved up by its shift along an axis that is `length` long then.

    Where nothing comes to lie there are zeros; what would lie before the start or behind the end is left out.
    """
    if not any(shifts) and length == tensor.shape[axis]:
        return take_rows(tensor, rows)
    moved: dict[tuple[int, int], object] = {}
    for row, shift in zip(rows, shifts, strict=True):
        if (row, shift) not in moved:
            moved[row, shift] = _window(tensor[row : row + 1], -shift, length, axis)
    return paddle.concat([moved[pair] for pair in zip(rows, shifts, strict=True)])


def _window(tensor, start: int, length: int, axis: int):
    """Return the places start .. start + length of an axis, with zeros where there are none."""
    size = tensor.shape[axis]
    first, last = min(max(start, 0), size), max(min(start + length, size), 0)
    num_before = min(max(-start, 0), length)
    num_kept = max(last - first, 0)
    pieces = [_zeros(tensor, num_before, axis)] if num_before else []
    if num_kept:
        pieces.append(paddle.slice(tensor, [axis], [first], [last]))
    if length > num_before + num_kept:
        pieces.append(_zeros(tensor, length - num_before - num_kept, axis))
    return paddle.concat(pieces, axis=axis)


def _zeros(tensor, number: int, axis: int):
    return paddle.zeros([*tensor.shape[:axis], number, *tensor.shape[axis + 1 :]], dtype=tensor.dtype)
