"""Choose which samples share a row, so that little of a batch is padding. Works with lengths, not with tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NUM_OPEN = 256  # maximum rows that still take samples; above it the fullest is closed


def first_fit(lengths: Sequence[int], max_length: int, order: Sequence[int] | None = None) -> list[list[int]]:
    """Return packs of sample numbers: each sample goes into the first open row with room for it (Johnson 1973).

    lengths: tokens of each sample, images included. order: of the samples; None: as they are. A row is closed when not
    even the shortest sample fits, and the fullest row when more than NUM_OPEN are open. Raises ValueError for a length
    that is not in 1..max_length.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    order = range(len(lengths)) if order is None else order
    if len(lengths) and not (lengths.min() >= 1 and lengths.max() <= max_length):
        wrong = int(np.flatnonzero((lengths < 1) | (lengths > max_length))[0])
        raise ValueError(f"sample {wrong} has {lengths[wrong]} tokens: expected 1 to max_length {max_length}")
    packs: list[list[int]] = []
    shortest = int(lengths.min()) if len(lengths) else 0
    open_packs: list[int] = []
    room = np.zeros(NUM_OPEN + 1, dtype=np.int64)  # tokens left in each open pack, 0 behind the last one
    for number, length in zip(order, lengths[np.asarray(order, dtype=np.int64)].tolist(), strict=True):
        index = int((room >= length).argmax())  # the first one with room
        if room[index] < length:
            index = len(open_packs)
            open_packs.append(len(packs))
            packs.append([])
            room[index] = max_length
        packs[open_packs[index]].append(int(number))
        left = room[index] = room[index] - length
        if left < shortest or len(open_packs) > NUM_OPEN:
            closed = index if left < shortest else int(room.argmin())
            del open_packs[closed]
            room[closed:-1] = room[closed + 1 :]
            room[-1] = 0
    return packs


def pack_rows(lengths: Sequence[int], max_length: int, seed: int) -> list[list[int]]:
    """Return the packs of a training set: first fit in a random order by seed, the same in every epoch.

    A row of length 0, which will be skipped, counts as length 1.
    """
    return first_fit(np.maximum(lengths, 1), max_length, np.random.default_rng(seed).permutation(len(lengths)))


def fill_rate(packs: Sequence[Sequence[int]], lengths: Sequence[int], max_length: int) -> float:
    """Return the share of all positions of the packed rows that have a token, in 0..1."""
    if not packs:
        return 0.0
    return sum(int(lengths[number]) for pack in packs for number in pack) / (len(packs) * max_length)
