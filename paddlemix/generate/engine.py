"""Generates the answers of many sequences at the same time; sequences join and leave at any step.

A step gives every running sequence its next token, and what is left of a budget of positions to waiting prompts, first
come first served. Long prompts are computed in chunks, so that running answers wait for one chunk at most. Each answer
is the one that its sequence would have alone.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Generator, Iterable
from typing import NamedTuple

import paddle

from ..models.kv_cache import Run, bucketed
from .features import FeatureStore, ImageEncoder
from .passes import Passes
from .prefix_store import MAX_BYTES, PrefixStore
from .schedule import Schedule
from .sequence import Sequence
from .slots import Slots
from .stats import EngineCounts

CHUNK = {"cpu": 256}  # positions a step while answers are running
CARD_CHUNK = 2048
ALONE = 4  # chunks a step while no answer is running
PLACES = 32_768  # 16 GB of keys and values with 7B parameters in 16 bits


class Event(NamedTuple):
    """A token that a sequence got, and the text that it completed."""

    sequence: Sequence
    token: int
    text: str


class Engine:
    """A model with the slots of a cache. Safe to use from several threads; one of them computes at a time.

    max_slots: sequences at a time. max_places: positions that the cache may hold, which are slots times the longest
    sequence; by default PLACES or the model's context. chunk: positions a step while answers are running. prefix_bytes:
    of the prefix store, 0 for none. features: the store of image features, to share it with other engines.
    """

    def __init__(
        self,
        model,
        *,
        max_slots: int = 16,
        max_places: int | None = None,
        chunk: int | None = None,
        prefix_bytes: int = MAX_BYTES,
        features: FeatureStore | None = None,
    ):
        if max_slots < 1:
            raise ValueError(f"max_slots is {max_slots}: expected at least 1")
        self.model = model
        self.features = FeatureStore() if features is None else features
        self.chunk = chunk or CHUNK.get(paddle.get_device(), CARD_CHUNK)
        max_places = max_places or max(PLACES, bucketed(model.config.language.max_position_embeddings))
        self.slots = Slots(model, PrefixStore(prefix_bytes), max_slots, max_places)
        self._schedule = Schedule(self.slots, ImageEncoder(model, self.features))
        self._passes = Passes(model, self.slots)
        self._computed: list[Sequence] = []  # take part in what is computed now
        self._num_failures = 0
        self._version = model.weights_version
        self._lock = threading.RLock()

    @property
    def has_work(self) -> bool:
        return bool(self._schedule.active or self._schedule.waiting)

    @property
    def num_running(self) -> int:
        return len(self._schedule.active)

    @property
    def num_preemptions(self) -> int:
        """How often a sequence had to wait again, because the cache had no more room for all."""
        return self._schedule.num_preemptions

    @property
    def num_waiting(self) -> int:
        return len(self._schedule.waiting)

    def stats(self) -> EngineCounts:
        """Return counters and gauges, without waiting for a step that is running."""
        schedule, encoder = self._schedule, self._schedule.encoder
        return EngineCounts(
            num_running=self.num_running,
            num_waiting=self.num_waiting,
            num_preemptions=self.num_preemptions,
            num_failures=self._num_failures,
            num_places=self.slots.num_taken([len(sequence.keys) for sequence in list(schedule.active)]),
            max_places=self.slots.max_places,
            prefix_queries=self.slots.num_queried,
            prefix_hits=self.slots.num_found,
            image_queries=schedule.num_images,
            image_hits=schedule.num_known_images,
            num_encoded=encoder.num_encoded,
            encode_seconds=encoder.seconds,
        )

    def check(self, sequence: Sequence) -> None:
        """Raise ValueError for a sequence that cannot ever fit, or has ids that the vocabulary lacks."""
        sequence.check_ids(self.model.config.language.vocab_size)
        self.model.language_model.rotary.choose([sequence.max_places])
        if not self.slots.has_room([sequence.max_places]):
            raise ValueError(
                f"the prompt has {sequence.num_prompt} tokens and its answer may have {sequence.budget}, but the cache "
                f"holds {self.slots.max_places} places: shorten the prompt, lower max_new_tokens or raise max_places"
            )

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises ValueError if it cannot ever fit."""
        self.check(sequence)
        with self._lock:
            self._follow_weights()
            sequence.arrived = time.monotonic() if sequence.arrived is None else sequence.arrived
            self._schedule.waiting.append(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence where it is, and free its slot."""
        with self._lock:
            sequence.interrupt()
            self._schedule.remove(sequence)

    def __reduce__(self):
        """Copy and pickle as None: a copy of the model makes its own engine."""
        return type(None), ()

    def clear(self) -> None:
        """Forget what is known of earlier sequences and images. Call it after changing a model's weights."""
        with self._lock:
            self.slots.clear()
            self._schedule.encoder.clear()
            self._passes.use_weights()

    def step(self) -> list[Event]:
        """Give each running sequence its next token, and compute some of the waiting prompts.

        What goes wrong, as too little memory, ends the sequences that it was for with the error, and no other.
        """
        events: list[Event] = []
        with self._lock, paddle.no_grad():
            for work in (self._decode, self._prefill, self._shrink):
                self._computed = []
                try:
                    work(events)
                except Exception as error:
                    self._recover(error)
            return events

    def run(self, sequences: Iterable[Sequence]) -> None:
        """Add sequences, and work until all of them have ended. Raises the error of one that failed."""
        sequences = list(sequences)
        try:
            for sequence in sequences:
                self.add(sequence)
            while any(sequence.is_open for sequence in sequences):
                self.step()
        finally:
            for sequence in sequences:
                self.cancel(sequence)
        for sequence in sequences:
            if sequence.error is not None:
                raise sequence.error

    def stream(self, sequence: Sequence) -> Generator[str, None, None]:
        """Add a sequence and yield its text as it comes, working when there is none yet; cancel it when closed.

        Other sequences go on meanwhile. Raises the sequence's error if it fails.
        """
        self.add(sequence)
        sent = 0
        try:
            while True:
                with self._lock:
                    if sequence.is_open and len(sequence.text) == sent:
                        self.step()
                if len(sequence.text) > sent:
                    text, sent = sequence.text[sent:], len(sequence.text)
                    yield text
                elif not sequence.is_open:
                    break
            if sequence.error is not None:
                raise sequence.error
        finally:
            self.cancel(sequence)

    def _follow_weights(self) -> None:
        """Forget what was computed with other weights than the model has now."""
        if self.model.training or self._version != self.model.weights_version:
            self.clear()
            self._version = self.model.weights_version
        self.features.use_version(self._version)

    def _shrink(self, events: list[Event]) -> None:
        if not self._schedule.waiting:
            self.slots.shrink()

    def _recover(self, error: Exception) -> None:
        """End the sequences for which a computation failed, and compute the others anew in an empty cache."""
        traceback.clear_frames(error.__traceback__)  # they hold tensors, and memory may be short
        failed = [sequence for sequence in self._computed if sequence.is_open] or self._schedule.blamed()
        self._schedule.start_again()
        for sequence in failed:
            sequence.fail(error)
            self._schedule.remove(sequence)
        self._num_failures += len(failed)

    def _decode(self, events: list[Event]) -> None:
        """Compute the next position of each running sequence, and its guesses; add the new tokens to events."""
        guesses = self._schedule.running()
        plain = [sequence for sequence, tokens in guesses.items() if not tokens]
        self._decode_plain(plain, events)
        self._decode_guessed({sequence: tokens for sequence, tokens in guesses.items() if tokens}, events)

    def _decode_plain(self, running: list[Sequence], events: list[Event]) -> None:
        if not running:
            return
        self._computed = running
        logits = self._passes.decode(running)
        for sequence in running:
            slot = sequence.slot
            self._extend(sequence, self.slots.cache.lengths[slot] + 1, logits[slot : slot + 1], [], events)

    def _decode_guessed(self, guesses: dict[Sequence, list[int]], events: list[Event]) -> None:
        if not guesses:
            return
        self._computed = list(guesses)
        logits, runs = self._passes.decode_guessed(guesses)
        first = 0
        for (sequence, tokens), run in zip(guesses.items(), runs, strict=True):
            self._extend(sequence, run.end, logits[first : first + run.count], tokens, events)
            first += run.count

    def _prefill(self, events: list[Event]) -> None:
        """Compute some positions of prompts, in the order of their arrival; add the first tokens to events."""
        is_answering = self._schedule.is_answering
        num_left = max(self.chunk - len(events), self.chunk // 4) if is_answering else self.chunk * ALONE
        while num_left > 0:
            self._computed = []
            runs, num_encoded = self._schedule.next_runs(num_left)
            num_left -= num_encoded + sum(run.count for run in runs.values())
            if runs:
                self._prefill_runs(runs, events)
            elif not num_encoded:
                break

    def _prefill_runs(self, runs: dict[Sequence, Run], events: list[Event]) -> None:
        self._computed = list(runs)
        logits = self._passes.prefill(runs)
        row = 0
        for sequence, run in runs.items():
            sequence.num_prefilled += run.count
            if run.num_outputs:
                sequence.features = {}  # may be large, and the answer may take long
                self._extend(sequence, run.end, logits[row : row + 1], [], events)
                row += 1
            else:
                self.slots.cache.lengths[run.slot] = run.end
                sequence.num_passes += 1

    def _extend(self, sequence: Sequence, end: int, logits, guesses: list[int], events: list[Event]) -> None:
        """Choose tokens from logits [1 + guesses, vocab], as long as the guesses are right.

        end: the positions up to there were computed. A sequence that has ended leaves its slot.
        """
        sequence.num_passes += 1
        try:
            for row, guess in zip(logits, [*guesses, None], strict=True):
                token = sequence.choose(row)
                events.append(Event(sequence, token, sequence.append(token)))
                if not sequence.is_open or token != guess:
                    break
        except Exception as error:  # of this answer alone: its logits, its limits or its grammar
            sequence.fail(error)
            self._num_failures += 1
        self.slots.cache.lengths[sequence.slot] = min(end, len(sequence.keys) - 1)
        if not sequence.is_open:
            self._schedule.remove(sequence)


def engine_of(model) -> Engine:
    """Return the engine that all sessions of a model share. It is freed when training starts, see `Llava.training`."""
    if model.engine is None:
        model.engine = Engine(model)
    return model.engine


def features_of(model) -> FeatureStore:
    """Return the image features that all engines of a model share."""
    return engine_of(model).features
