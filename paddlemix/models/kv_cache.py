"""Keys and values of what the decoder has read."""

from __future__ import annotations

import paddle

from ..device import wants_equal_shapes

BUCKET = 256  # capacities are multiples of this, so that few shapes occur


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
            paddle.reshape_(store, [-1, dim])
            paddle.scatter_(store, rows, new.reshape([-1, dim]))
            paddle.reshape_(store, shape)

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


def bucketed(capacity: int) -> int:
    """Round up to a multiple of BUCKET, where equal shapes matter to its double, fourfold, eightfold and so on."""
    if wants_equal_shapes():
        return BUCKET << max(((capacity - 1) // BUCKET).bit_length(), 1)
    return -(-max(capacity, 1) // BUCKET) * BUCKET
