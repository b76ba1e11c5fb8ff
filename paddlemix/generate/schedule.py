"""Which positions of which sequences are computed next: who has a slot, who waits, and who has to wait again."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator

from ..device import bucketed_length
from ..models.kv_cache import Run
from .cache_keys import image_names, num_common
from .features import MAX_TILES, ImageEncoder
from .sequence import Sequence
from .slots import MIN_SHARED, Slots

RESERVED = 256  # places of an answer that must be free when its prompt begins


class Schedule:
    """Sequences in the order of their arrival. The first ones, `active`, have a slot.

    num_preemptions: how often a sequence lost its slot, because the cache had no more room for all.
    """

    def __init__(self, slots: Slots, encoder: ImageEncoder):
        self.slots, self.encoder = slots, encoder
        self.active: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self.num_preemptions = 0
        self.num_images = 0  # of sequences that got a slot for the first time
        self.num_known_images = 0  # of these, images that needed no encoding

    @property
    def is_answering(self) -> bool:
        """Whether some sequence has tokens already, and so waits for each step."""
        return any(sequence.num_generated for sequence in self.active)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence; its slot becomes free."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        if sequence in self.active:
            self._free(sequence)
        self.encoder.drop_unfinished(name for each in (*self.active, *self.waiting) for name in each.images)

    def blamed(self) -> list[Sequence]:
        """Return the sequence for which something failed beside a forward pass, if there is any.

        It is the newest one: a prompt gets its slot and its images when all before it are computed.
        """
        return self.active[-1:] or list(self.waiting)[:1]

    def start_again(self) -> None:
        """Let all sequences wait again, with an empty cache."""
        self.slots.start_again()
        for sequence in reversed(self.active):
            sequence.features = {}
            self.waiting.appendleft(sequence)
        self.active = []
        self.encoder.drop_unfinished(())

    def _free(self, sequence: Sequence) -> None:
        self.active.remove(sequence)
        self.slots.release(sequence)
        sequence.features = {}

    def running(self) -> dict[Sequence, list[int]]:
        """Return the sequences of which only the last token is not computed, with their guesses of the next ones.

        There is room in the cache for all of these. The newest sequences wait again if they do not fit any more.
        """
        running = [sequence for sequence in self.active if self.slots.num_unread(sequence) == 1]
        guesses = {sequence: sequence.guesses() for sequence in running}
        while self.active:
            needs = [len(sequence.keys) + len(guesses.get(sequence, ())) for sequence in self.active]
            if len(needs) == 1 or self.slots.has_room(needs):
                self.slots.reserve(max(needs) + 1)
                break
            newest = self.active[-1]
            self.waiting.appendleft(newest)
            self._free(newest)
            self.num_preemptions += 1
            guesses.pop(newest, None)
        return guesses

    def next_runs(self, num_left: int) -> tuple[dict[Sequence, Run], int]:
        """Return the next positions of prompts, at most num_left, and how many the encoding of an image counts for."""
        runs: dict[Sequence, Run] = {}
        num_encoded = 0
        for sequence in self._prompts(runs):
            num_encoded = self._encode(sequence, num_left)
            if num_encoded:
                break
            num_unread = self.slots.num_unread(sequence)
            start, count = self.slots.cache.lengths[sequence.slot], min(num_unread, num_left)
            runs[sequence] = Run(sequence.slot, start, count, int(count == num_unread))
            num_left -= count
            if num_left <= 0:
                break
        # This may drop free slots and renumber the others.
        self.slots.reserve(max((run.start + bucketed_length(run.count) + 1 for run in runs.values()), default=0))
        return {each: dataclasses.replace(run, slot=each.slot) for each, run in runs.items()}, num_encoded

    def _prompts(self, runs: dict[Sequence, Run]) -> Iterator[Sequence]:
        """Yield the sequences whose prompts are to be computed: those that have begun, then waiting ones that fit.

        runs: what was chosen so far. A sequence that begins like one of these waits until that part is known.
        """
        yield from [each for each in self.active if not each.num_generated or self.slots.num_unread(each) > 1]
        while self.waiting:
            sequence = self.waiting[0]
            needs = [len(each.keys) + min(each.num_left, RESERVED) for each in (*self.active, sequence)]
            if self.active and not self.slots.has_room(needs):
                return
            shared = max((min(num_common(each.keys, sequence.keys), run.end) for each, run in runs.items()), default=0)
            if shared >= MIN_SHARED and shared >= self.slots.num_known(sequence) + MIN_SHARED:
                return
            self.active.append(self.waiting.popleft())
            self._place(sequence)
            yield sequence

    def _place(self, sequence: Sequence) -> None:
        is_first = sequence.started is None
        self.slots.place(sequence, len(self.active) + len(self.waiting))
        if is_first and sequence.images:
            unread = image_names(sequence.keys[sequence.num_cached :])
            num_unknown = sum(name not in self.encoder.store for name in unread)
            self.num_images += len(sequence.images)
            self.num_known_images += len(sequence.images) - num_unknown

    def _encode(self, sequence: Sequence, num_left: int) -> int:
        """Make the image features available that a sequence needs next; return how many positions that counts for.

        While answers wait for it, it encodes as many tiles as correspond to num_left, and at least one.
        """
        start = self.slots.cache.lengths[sequence.slot]
        missing = {name: sequence.images[name] for name in image_names(sequence.keys[start:])}
        missing = {name: image for name, image in missing.items() if name not in sequence.features}
        if not missing:
            return 0
        sequence.features.update(self.encoder.fetch(missing))
        missing = {name: image for name, image in missing.items() if name not in sequence.features}
        num_patches = self.encoder.model.config.image.patches_per_side**2
        num_tiles = max(num_left // num_patches, 1) if self.is_answering else MAX_TILES
        number, finished = self.encoder.advance(missing.items(), num_tiles)
        sequence.features.update(finished)
        return number * num_patches
