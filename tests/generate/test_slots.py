"""How often the cache changes its size, which copies all of it, and how large it becomes."""

from __future__ import annotations

import pytest
import tiny_folder

from paddlemix.generate.engine import Engine
from paddlemix.generate.sampling import SamplingParams
from paddlemix.generate.sequence import Ending, Sequence
from paddlemix.models.kv_cache import BUCKET, KVCache


@pytest.fixture(scope="module")
def model():
    return tiny_folder.load("pad")[0]


def sequence_of(length: int, num_new: int) -> Sequence:
    ids = [3 + number % 50 for number in range(length)]
    return Sequence(ids, {}, SamplingParams(max_new_tokens=num_new, ignore_eos=True), num_new, Ending())


def test_a_prompt_in_many_chunks_changes_the_size_of_the_cache_once(model, monkeypatch):
    engine = Engine(model, chunk=40, prefix_bytes=0)
    running = sequence_of(20, 100)
    engine.add(running)
    while not running.num_generated:
        engine.step()
    sizes = []
    resize = KVCache.resize

    def counted(cache, slots, capacity):
        sizes.append((len(slots), capacity))
        resize(cache, slots, capacity)

    monkeypatch.setattr(KVCache, "resize", counted)
    joining = sequence_of(2 * BUCKET + 50, 2)
    engine.add(joining)
    while not joining.num_generated:
        engine.step()
    assert sizes == [(2, 2 * BUCKET + 51)]
    engine.cancel(running)


def test_slots_for_waiting_sequences_leave_the_cache_within_its_places(model):
    engine = Engine(model, max_places=6 * BUCKET, prefix_bytes=0)
    sequences = [sequence_of(BUCKET + 10, 3), *(sequence_of(10, 3) for _ in range(9))]
    for sequence in sequences:
        engine.add(sequence)
    while any(sequence.is_open for sequence in sequences):
        engine.step()
        assert engine.slots.cache.num_slots * engine.slots.cache.capacity <= 6 * BUCKET
