"""Keys and values of what the decoder has read."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import _C_ops

from ..device import wants_equal_shapes
from .rows import take_shifted

BUCKET = 64  # capacities are multiples of this, so that few shapes occur
EQUAL_BUCKET = 256  # where equal shapes matter


class KVCache:
    """Per layer K and V [B, kv_heads, capacity, head_dim], of which the first `length` positions hold something.

    is_long: for each row if its keys were turned as in a long sequence, see `language.rope`; empty where that is one.
    """

    def __init__(self, num_layers: int, batch: int, num_kv_heads: int, head_dim: int, capacity: int, dtype: str):
        self.capacity = bucketed(capacity)
        self.length = 0
        self.is_long: tuple[bool, ...] = ()
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
        """Put key and value [B, kv_heads, num_new, head_dim] at `rows` (from `rows`) of a layer, in place."""
        for store, new in ((self.keys[layer], key), (self.values[layer], value)):
            shape, dim = store.shape, new.shape[-1]
            # NOTE: in-place reshapes keep the memory; a view would be a copy with FLAGS_use_stride_kernel=0 (Ascend).
            _C_ops.reshape_(store, [-1, dim])
            _C_ops.scatter_(store, rows, _C_ops.reshape(new, [-1, dim]), True)
            _C_ops.reshape_(store, shape)

    def reserve(self, capacity: int) -> None:
        """Grow to at least `capacity` positions, keeping what is there."""
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
        """Hold copies of these rows, each moved up by its shift, of which the first `length` positions count then."""
        assert length <= self.capacity, (length, self.capacity)
        for stores in (self.keys, self.values):
            for layer, store in enumerate(stores):  # one after the other, so that little is held twice
                stores[layer] = take_shifted(store, rows, shifts, self.capacity, axis=2)
        is_long = tuple(self.is_long[row] for row in rows) if self.is_long else ()
        self.is_long = is_long if any(is_long) else ()
        self.length = length

    def head(self, length: int) -> list:
        """Return copies of the first positions, [B, kv_heads, length, head_dim]: the keys of all layers, the values."""
        return [store[:, :, :length].clone() for store in (*self.keys, *self.values)]

    def load(self, head: list, length: int) -> None:
        """Hold copies of the first `length` positions of what `head` returned."""
        assert length < self.capacity, (length, self.capacity)
        joined = [
            paddle.concat([part[:, :, :length], store[:, :, length:]], axis=2)
            for part, store in zip(head, (*self.keys, *self.values), strict=True)
        ]
        self.keys, self.values = joined[: len(self.keys)], joined[len(self.keys) :]
        self.length = length


def bucketed(capacity: int) -> int:
    """Round up to a multiple of BUCKET, where equal shapes matter to 2, 4, 8 and so on times EQUAL_BUCKET."""
    if wants_equal_shapes():
        return EQUAL_BUCKET << max(((capacity - 1) // EQUAL_BUCKET).bit_length(), 1)
    return -(-max(capacity, 1) // BUCKET) * BUCKET
