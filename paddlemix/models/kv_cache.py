"""Keys and values of the positions that the decoder has read."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import _C_ops

from ..device import wants_equal_shapes

BUCKET = 64  # capacities are multiples of this, so that few shapes occur
EQUAL_BUCKET = 256  # where equal shapes matter


class KVCache:
    """Per layer K and V [B, kv_heads, capacity, head_dim], of which the first `length` positions are in use.

    is_long: for each row whether its keys are rotated as in a long sequence, see `language.positions`.
    """

    def __init__(self, num_layers: int, batch: int, num_kv_heads: int, head_dim: int, capacity: int, dtype: str):
        self.capacity = bucketed(capacity)
        self.length = 0
        self.is_long: tuple[bool, ...] = (False,) * batch
        shape = [batch, num_kv_heads, self.capacity, head_dim]
        self.keys = [paddle.zeros(shape, dtype=dtype) for _ in range(num_layers)]
        self.values = [paddle.zeros(shape, dtype=dtype) for _ in range(num_layers)]

    def rows(self, num_new: int):
        """Return the flat row numbers of the next `num_new` positions, int64 [B * kv_heads * num_new]."""
        assert self.length + num_new <= self.capacity, (self.length, num_new, self.capacity)
        batch, heads, capacity, _ = self.keys[0].shape
        starts = paddle.arange(batch * heads, dtype="int64").unsqueeze(1) * capacity + self.length
        return (starts + paddle.arange(num_new, dtype="int64").unsqueeze(0)).flatten()

    def write(self, layer: int, rows, key, value) -> None:
        """Write key and value [B, kv_heads, num_new, head_dim] at `rows` (from `rows`) of a layer, in place."""
        for store, new in ((self.keys[layer], key), (self.values[layer], value)):
            shape, dim = store.shape, new.shape[-1]
            # NOTE: in-place reshapes keep the memory; a view would be a copy with FLAGS_use_stride_kernel=0 (Ascend).
            _C_ops.reshape_(store, [-1, dim])
            _C_ops.scatter_(store, rows, _C_ops.reshape(new, [-1, dim]), True)
            _C_ops.reshape_(store, shape)

    def reserve(self, capacity: int) -> None:
        """Grow to at least `capacity` positions and keep the content."""
        if capacity <= self.capacity:
            return
        grown = bucketed(capacity)
        batch, heads, _, dim = self.keys[0].shape
        tail = paddle.zeros([batch, heads, grown - self.capacity, dim], dtype=self.keys[0].dtype)
        self.keys = [paddle.concat([key, tail], axis=2) for key in self.keys]
        self.values = [paddle.concat([value, tail], axis=2) for value in self.values]
        self.capacity = grown

    def trim(self, length: int) -> None:
        """Forget everything from position `length` on."""
        assert 0 <= length <= self.length, (length, self.length)
        self.length = length

    def take_rows(self, rows: Sequence[int], shifts: Sequence[int], length: int) -> None:
        """Replace the rows by copies of these rows, each shifted to the right, with `length` positions in use."""
        assert length <= self.capacity, (length, self.capacity)
        for stores in (self.keys, self.values):
            for layer, store in enumerate(stores):  # one layer at a time, so that little memory is needed
                stores[layer] = take_shifted(store, rows, shifts, self.capacity, axis=2)
        self.is_long = tuple(self.is_long[row] for row in rows)
        self.length = length

    def head(self, length: int) -> list:
        """Return copies of the first positions, [B, kv_heads, length, head_dim]: keys of all layers, then values."""
        return [store[:, :, :length].clone() for store in (*self.keys, *self.values)]

    def load(self, head: list, length: int) -> None:
        """Copy the first `length` positions of a result of `head` to the start of the cache."""
        assert length < self.capacity, (length, self.capacity)
        joined = [
            paddle.concat([part[:, :, :length], store[:, :, length:]], axis=2)
            for part, store in zip(head, (*self.keys, *self.values), strict=True)
        ]
        self.keys, self.values = joined[: len(self.keys)], joined[len(self.keys) :]
        self.length = length


def bucketed(capacity: int) -> int:
    """Round up to a multiple of BUCKET, or where equal shapes matter to 2, 4, 8 ... times EQUAL_BUCKET."""
    if wants_equal_shapes():
        return EQUAL_BUCKET << max(((capacity - 1) // EQUAL_BUCKET).bit_length(), 1)
    return -(-max(capacity, 1) // BUCKET) * BUCKET


def take_rows(tensor, rows: Sequence[int]):
    """Return the rows [len(rows), ...] of a tensor [B, ...] in this order; a row may be repeated.

    By slices and concatenation only: every device has kernels for these in every dtype and with static shapes, unlike
    for a gather.
    """
    starts = [place for place, row in enumerate(rows) if place == 0 or row != rows[place - 1] + 1]
    ends = [*starts[1:], len(rows)]
    pieces = [tensor[rows[start] : rows[end - 1] + 1] for start, end in zip(starts, ends, strict=True)]
    return pieces[0] if len(pieces) == 1 else paddle.concat(pieces)


def take_shifted(tensor, rows: Sequence[int], shifts: Sequence[int], length: int, axis: int):
    """Return rows as `take_rows` does, each shifted along an axis, whose length becomes `length`.

    Positions shifted in are zeros; positions shifted out are dropped.
    """
    if not any(shifts) and length == tensor.shape[axis]:
        return take_rows(tensor, rows)
    moved: dict[tuple[int, int], object] = {}
    for row, shift in zip(rows, shifts, strict=True):
        if (row, shift) not in moved:
            moved[row, shift] = _window(tensor[row : row + 1], -shift, length, axis)
    return paddle.concat([moved[pair] for pair in zip(rows, shifts, strict=True)])


def _window(tensor, start: int, length: int, axis: int):
    """Return positions start .. start + length of an axis, with zeros outside of the tensor."""
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
