"""Packs of rows as a map-style data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .sample import Sample


class PackedRows:
    """Each item is the list of samples of a pack, at most max_length tokens together.

    rows: a data set of samples. packs: row numbers, see `packing.first_fit`. A sample that stands in for a bad row may
    be longer than that; where it does not fit it is left out, and its notes go to another one of the pack.
    """

    def __init__(self, rows, packs: Sequence[Sequence[int]], max_length: int):
        self.rows = rows
        self.packs = packs
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> list[Sample]:
        samples = [self.rows[number] for number in self.packs[index]]
        # Those that stand in for others have notes of skipped rows; they come last, so that the right ones all fit.
        samples.sort(key=lambda sample: any(note.is_skipped for note in sample.notes))
        kept: list[Sample] = []
        room, notes = self.max_length, ()
        for sample in samples:
            if kept and len(sample.token_ids) > room:
                notes += sample.notes
            else:
                kept.append(sample)
                room -= len(sample.token_ids)
        return [replace(kept[0], notes=(*kept[0].notes, *notes)), *kept[1:]] if notes else kept
