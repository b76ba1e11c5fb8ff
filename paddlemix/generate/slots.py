"""Which sequence is in which slot of the cache, and what free slots still contain.

A sequence gets the slot, and from other slots and the prefix store the keys and values, with which the longest part of
its prompt is known. What is overwritten goes to the prefix store.
"""

from __future__ import annotations

import itertools
import math
import time

import paddle

from ..device import return_freed_memory
from ..models.kv_cache import bucketed
from .cache_keys import Key, num_common
from .prefix_store import PrefixStore
from .sequence import Sequence

GB = 1 << 30  # bytes, of options

MIN_SHARED = 16  # places; fewer are computed as fast as copied


class Slots:
    """The slots of a cache that grows and shrinks with the number and the length of its sequences.

    max_slots: how many sequences at a time. max_places: slots times places of each.
    """

    def __init__(self, model, prefixes: PrefixStore, max_slots: int, max_places: int):
        self.prefixes, self.max_slots, self.max_places = prefixes, max_slots, max_places
        self._model = model
        self._begin()
        self._clock = itertools.count(1)
        self.num_queried = 0  # places of prompts that got a slot for the first time
        self.num_found = 0  # of these, places that were known

    def _begin(self) -> None:
        self.cache = self._model.language_model.new_cache(1, 1)
        self._owners: list[Sequence | None] = [None]
        self._contents: list[list[Key]] = [[]]  # keys of a slot; as many as its length are in the cache
        self._used = [0]

    def num_unread(self, sequence: Sequence) -> int:
        """Return how many keys of a sequence in a slot are not in the cache yet; at least the last one."""
        lengths = self.cache.lengths
        lengths[sequence.slot] = min(lengths[sequence.slot], len(sequence.keys) - 1)
        return len(sequence.keys) - lengths[sequence.slot]

    def has_room(self, needs: list[int]) -> bool:
        """Return whether sequences with so many places each fit at the same time."""
        return len(needs) <= self.max_slots and self.num_taken(needs) <= self.max_places

    def num_taken(self, needs: list[int]) -> int:
        """Return how many places of the cache sequences with so many places each take."""
        return self._num_slots(len(needs)) * bucketed(max(needs)) if needs else 0

    def num_known(self, sequence: Sequence) -> int:
        """Return how many places of a waiting sequence's keys some slot or the prefix store contains."""
        is_long = self._is_long(sequence)
        shared = (self._num_shared(slot, sequence.keys, is_long) for slot in range(self.cache.num_slots))
        return max(*shared, self.prefixes.find(sequence.keys[:-1], is_long)[0])

    def place(self, sequence: Sequence, num_wanted: int) -> None:
        """Give a sequence a slot that contains as much of its prompt as is known.

        num_wanted: for how many sequences slots are wanted now; the cache grows once for all of them.
        """
        self._make_place(_num_needed(sequence), num_wanted)
        is_long = self._is_long(sequence)
        shared = [self._num_shared(slot, sequence.keys, is_long) for slot in range(self.cache.num_slots)]
        slot = self._choose(shared)
        number = shared[slot] if shared[slot] >= MIN_SHARED else 0
        if self.cache.lengths[slot] - number >= MIN_SHARED:
            self._store(slot)
        self.cache.lengths[slot], self.cache.is_long[slot] = number, is_long
        self._owners[slot], self._contents[slot], sequence.slot = sequence, sequence.keys, slot
        self._load(sequence, shared, is_long)
        if sequence.started is None:
            sequence.started, sequence.num_cached = time.monotonic(), self.cache.lengths[slot]
            self.num_queried += sequence.num_prompt
            self.num_found += sequence.num_cached

    def release(self, sequence: Sequence) -> None:
        """Free a sequence's slot. Its content stays until another sequence needs the slot."""
        slot = sequence.slot
        self.cache.lengths[slot] = min(self.cache.lengths[slot], len(sequence.keys))
        self._owners[slot], self._used[slot], sequence.slot = None, next(self._clock), None

    def reserve(self, capacity: int) -> None:
        """Make room for so many places in every slot. Free slots are dropped if there would be too many places."""
        if capacity <= self.cache.capacity:
            return
        if self.cache.num_slots * bucketed(capacity) > self.max_places:
            self.shrink(max_part=1.0)
        self._resize(range(self.cache.num_slots), capacity)

    def shrink(self, max_part: float = 0.5) -> None:
        """Drop free slots if at most this part of all is needed. Their content goes to the prefix store."""
        owned = [slot for slot, owner in enumerate(self._owners) if owner is not None]
        target = self._num_slots(max(len(owned), 1))
        if target > self.cache.num_slots * max_part or target == self.cache.num_slots:
            return
        free = sorted(set(range(self.cache.num_slots)) - set(owned), key=lambda slot: -self._used[slot])
        kept = sorted(owned + free[: target - len(owned)])
        for slot in set(free) - set(kept):
            self._store(slot)
        self._resize(kept)

    def start_again(self) -> None:
        """Take their slots from all sequences, and begin with an empty cache. The prefix store is kept."""
        for owner in self._owners:
            if owner is not None:
                owner.slot = None
        self._begin()

    def clear(self) -> None:
        """Forget the content of all free slots and of the prefix store."""
        self.prefixes.clear()
        for slot, owner in enumerate(self._owners):
            if owner is None:
                self.cache.lengths[slot] = 0

    def _is_long(self, sequence: Sequence) -> bool:
        return self._model.language_model.rotary.choose([sequence.max_places])[0]

    def _num_slots(self, number: int) -> int:
        return min(num_slots(number), self.max_slots)

    def _make_place(self, capacity: int, num_wanted: int) -> None:
        """Make sure that there is a free slot, and room for so many places in every slot.

        The whole prompt gets its room at once, because each change of size copies the cache.
        """
        if None in self._owners:
            self.reserve(capacity)  # may drop free slots
        if None in self._owners:
            return
        number = self.cache.num_slots
        least, target = self._num_slots(number + 1), self._num_slots(max(num_wanted, number + 1))
        # A sequence that was longer than all of these may have left more places than they need.
        is_fitting = least * self.cache.capacity <= self.max_places
        capacity = max(capacity, self.cache.capacity if is_fitting else max(map(_num_needed, self._owners)))
        if target * bucketed(capacity) > self.max_places:
            target = least
        self._resize([*range(number), *[None] * (target - number)], capacity)

    def _choose(self, shared: list[int]) -> int:
        """Return the free slot with the longest useful content, or an empty one, or the one free for longest."""
        free = [slot for slot, owner in enumerate(self._owners) if owner is None]
        known = [slot for slot in free if shared[slot] >= MIN_SHARED]
        if known:
            return max(known, key=shared.__getitem__)
        return min(free, key=lambda slot: (self.cache.lengths[slot] > 0, self._used[slot]))

    def _num_shared(self, slot: int, keys: list[Key], is_long: bool) -> int:
        """Return how many places of a slot are those of keys, the last key left out, whose logits are needed."""
        if self.cache.is_long[slot] != is_long:
            return 0
        return num_common(self._contents[slot][: self.cache.lengths[slot]], keys[:-1])

    def _load(self, sequence: Sequence, shared: list[int], is_long: bool) -> None:
        """Copy what other slots or the prefix store know of a sequence's keys, if that is worth it."""
        slot, cache = sequence.slot, self.cache
        number, found = self.prefixes.find(sequence.keys[:-1], is_long)
        other = max((each for each in range(len(shared)) if each != slot), key=shared.__getitem__, default=slot)
        needed = cache.lengths[slot] + MIN_SHARED
        if max(number, shared[other]) < needed:
            return
        if other != slot and shared[other] >= number:
            cache.copy_prefix(other, slot, shared[other])
            return
        start = 0
        for each in found:
            cache.put(slot, start, each.segment.blocks(each.start, each.end))
            start = cache.lengths[slot]

    def _store(self, slot: int) -> None:
        """Put a slot's content into the prefix store."""
        keys = self._contents[slot][: self.cache.lengths[slot]]
        self.prefixes.keep(keys, self.cache.is_long[slot], lambda start, end: self.cache.take(slot, start, end))

    def _resize(self, slots, capacity: int | None = None) -> None:
        """Replace the slots by these former ones, None for an empty one. capacity: None for what they need."""
        slots = list(slots)
        if capacity is None:
            lengths = [0 if slot is None else self.cache.lengths[slot] for slot in slots]
            capacity = max(lengths) + 1
        self.cache.resize(slots, capacity)
        if paddle.get_device() == "cpu":
            return_freed_memory()
        self._owners = [None if slot is None else self._owners[slot] for slot in slots]
        self._contents = [[] if slot is None else self._contents[slot] for slot in slots]
        self._used = [0 if slot is None else self._used[slot] for slot in slots]
        for slot, owner in enumerate(self._owners):
            if owner is not None:
                owner.slot = slot


def _num_needed(sequence: Sequence) -> int:
    return len(sequence.keys) + 1


def places_in(model, num_bytes: int) -> int:
    """Return how many places a cache of so many bytes holds, on each card. Raises ValueError if it holds none."""
    config = model.language_model.config  # of this card's part
    item = model.language_model.norm.weight.element_size()
    num_each = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * item
    if num_bytes < num_each * bucketed(1):
        least = math.ceil(num_each * bucketed(1) / GB * 1e6) / 1e6
        raise ValueError(
            f"{num_bytes / GB:.3g} GB of cache hold {num_bytes // num_each} places of this model, at {num_each} bytes "
            f"each: expected at least {least:f} GB"
        )
    return num_bytes // num_each


def num_slots(number: int) -> int:
    """Return how many slots to allocate for a number of sequences, so that few sizes occur: 1, 2, 4, 8, 12, 16 ..."""
    return number if number <= 2 else -(-number // 4) * 4
