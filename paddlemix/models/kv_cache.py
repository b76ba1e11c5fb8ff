"""Keys and values of the positions that the decoder has read, in slots of one sequence each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import _C_ops

from ..device import bucketed_length, wants_equal_shapes

BUCKET = 128  # capacities are multiples of this, so that few shapes occur
EQUAL_BUCKET = 256  # where equal shapes matter


@dataclass(frozen=True)
class Run:
    """The next positions of a slot: `start`, which is the slot's length, up to start + count.

    num_outputs: how many of the last positions' hidden states are wanted.
    """

    slot: int
    start: int
    count: int
    num_outputs: int = 1

    @property
    def end(self) -> int:
        return self.start + self.count


@dataclass(frozen=True)
class Places:
    """Where a layer writes and reads keys and values.

    rows: flat row numbers to write at, see `KVCache.rows`. slot: the one whose keys are read, None for all slots.
    """

    rows: object
    slot: int | None = None


@dataclass(frozen=True, eq=False)
class Taken:
    """Copies of consecutive positions of a slot. parts: keys of all layers, then values, [1, kv_heads, n, head_dim]."""

    parts: list

    @property
    def num_bytes(self) -> int:
        return sum(int(part.size) * part.element_size() for part in self.parts)

    def between(self, start: int, end: int) -> Taken:
        """Return some of these positions, counted from the first of them."""
        return Taken([part[:, :, start:end] for part in self.parts])


class KVCache:
    """Per layer K and V [slots, kv_heads, capacity, head_dim].

    lengths: how many positions of each slot are in use. is_long: for each slot whether its keys are rotated as in a
    long sequence, see `language.positions`.
    """

    def __init__(self, num_layers: int, num_slots: int, num_kv_heads: int, head_dim: int, capacity: int, dtype: str):
        self.capacity = bucketed(capacity)
        self.lengths = [0] * num_slots
        self.is_long = [False] * num_slots
        shape = [num_slots, num_kv_heads, self.capacity, head_dim]
        self.keys = [paddle.zeros(shape, dtype=dtype) for _ in range(num_layers)]
        self.values = [paddle.zeros(shape, dtype=dtype) for _ in range(num_layers)]

    @property
    def num_slots(self) -> int:
        return len(self.lengths)

    @property
    def num_bytes(self) -> int:
        return sum(int(store.size) * store.element_size() for store in (*self.keys, *self.values))

    def rows(self, slots: Sequence[int], positions: Sequence[int]):
        """Return the flat row numbers of these positions of these slots: of all positions for one head after another.

        int64 [kv_heads * N], as `write` takes them for keys [1, kv_heads, N, head_dim].
        """
        heads = self.keys[0].shape[1]
        first = np.asarray(slots)[None] * heads + np.arange(heads)[:, None]
        return paddle.to_tensor((first * self.capacity + np.asarray(positions)).reshape(-1))

    def next_rows(self, lengths):
        """Return the flat row numbers of each slot's next position, for keys [slots, kv_heads, 1, head_dim].

        lengths: int64 [slots] on the device.
        """
        slots, heads = self.keys[0].shape[:2]
        starts = paddle.arange(slots * heads, dtype="int64").reshape([slots, heads]) * self.capacity
        return (starts + lengths.unsqueeze(1)).flatten()

    def write(self, layer: int, rows, key, value) -> None:
        """Write key and value [..., head_dim] at flat rows of a layer, in place."""
        for store, new in ((self.keys[layer], key), (self.values[layer], value)):
            shape, dim = store.shape, new.shape[-1]
            # NOTE: in-place reshapes keep the memory; a view would be a copy with FLAGS_use_stride_kernel=0 (Ascend).
            _C_ops.reshape_(store, [-1, dim])
            _C_ops.scatter_(store, rows, _C_ops.reshape(new, [-1, dim]), True)
            _C_ops.reshape_(store, shape)

    def layer(self, number: int, slot: int | None) -> tuple:
        """Return a layer's keys and values of one slot, [1, kv_heads, capacity, head_dim], or of all slots."""
        if slot is None or self.num_slots == 1:
            return self.keys[number], self.values[number]
        return self.keys[number][slot : slot + 1], self.values[number][slot : slot + 1]

    def take(self, slot: int, start: int, end: int) -> Taken:
        """Return copies of a slot's positions start .. end."""
        # A slice that takes everything may be the tensor itself.
        return Taken([store[slot : slot + 1, :, start:end].clone() for store in (*self.keys, *self.values)])

    def put(self, slot: int, start: int, taken: Taken) -> None:
        """Write positions that were taken into a slot from position `start` on, which is then its length."""
        parts, num_layers = taken.parts, len(self.keys)
        count = parts[0].shape[2]
        assert start + count <= self.capacity, (start, count, self.capacity)
        rows = self.rows([slot] * count, range(start, start + count))
        for layer in range(num_layers):
            self.write(layer, rows, parts[layer], parts[num_layers + layer])
        self.lengths[slot] = start + count

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Make the first `length` positions of a slot those of another one."""
        size = min(bucketed_length(length), self.capacity)  # what follows is not in use
        rows = self.rows([target] * size, range(size))
        for layer in range(len(self.keys)):
            key, value = self.keys[layer], self.values[layer]
            part = (store[source : source + 1, :, :size] for store in (key, value))
            self.write(layer, rows, *part)
        self.lengths[target], self.is_long[target] = length, self.is_long[source]

    def resize(self, slots: Sequence[int | None], capacity: int) -> None:
        """Replace the slots by these former ones, None for an empty slot, with room for `capacity` positions each."""
        capacity = bucketed(capacity)
        longest = max((self.lengths[slot] for slot in slots if slot is not None), default=0)
        assert longest <= capacity, (longest, capacity)
        for stores in (self.keys, self.values):
            for layer, store in enumerate(stores):  # one layer at a time, so that little memory is needed
                stores[layer] = _resized(store, slots, capacity)
        self.lengths = [0 if slot is None else self.lengths[slot] for slot in slots]
        self.is_long = [slot is not None and self.is_long[slot] for slot in slots]
        self.capacity = capacity


def bucketed(capacity: int) -> int:
    """Round up to a multiple of BUCKET, or where equal shapes matter to 2, 4, 8 ... times EQUAL_BUCKET."""
    if wants_equal_shapes():
        return EQUAL_BUCKET << max(((capacity - 1) // EQUAL_BUCKET).bit_length(), 1)
    return -(-max(capacity, 1) // BUCKET) * BUCKET


def _resized(store, slots: Sequence[int | None], capacity: int):
    """Return rows of a tensor [B, heads, n, D] in this order, zeros for None, with n cut or filled up to capacity.

    By slices and concatenation only: every device has kernels for these in every dtype and with static shapes, unlike
    for a gather.
    """
    number, heads, size, dim = store.shape
    kept = store[:, :, :capacity] if capacity < size else store
    if list(slots) != list(range(number)):
        rows = [_rows(kept, group) for group in _groups(slots)]
        kept = paddle.concat(rows) if len(rows) > 1 else rows[0]
    if capacity <= size:
        return kept
    return paddle.concat([kept, paddle.zeros([len(slots), heads, capacity - size, dim], dtype=store.dtype)], axis=2)


def _groups(slots: Sequence[int | None]) -> list[list[int | None]]:
    """Return slots in groups of empty ones and of consecutive ones, because each group is copied once."""
    groups: list[list[int | None]] = []
    for slot in slots:
        last = groups[-1][-1] if groups else -1
        is_next = slot is None if last is None else slot == last + 1
        if groups and is_next:
            groups[-1].append(slot)
        else:
            groups.append([slot])
    return groups


def _rows(store, group: list[int | None]):
    """Return these consecutive rows of a tensor, or zeros for empty slots."""
    if group[0] is None:
        return paddle.zeros([len(group), *store.shape[1:]], dtype=store.dtype)
    whole = len(group) == store.shape[0]
    return store if whole else store[group[0] : group[0] + len(group)]
