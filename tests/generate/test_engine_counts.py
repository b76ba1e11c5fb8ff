"""What an engine counts for a monitor, how much memory it keeps, and how that is bounded."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
import tiny_folder

from paddlemix.generate.cache_keys import keys_of
from paddlemix.generate.engine import Engine
from paddlemix.generate.features import FeatureStore
from paddlemix.generate.prefix_store import BLOCK
from paddlemix.generate.sampling import SamplingParams
from paddlemix.generate.sequence import Ending, Sequence
from paddlemix.generate.slots import places_in
from paddlemix.image.preprocess import content_key

GREEDY = SamplingParams(max_new_tokens=4, ignore_eos=True)


@pytest.fixture(scope="module")
def parts():
    return tiny_folder.load("anyres")


def sequence_for(parts, ids, images=(), sampling=GREEDY) -> Sequence:
    tiles = [parts[1].tiles(tiny_folder.random_image(each)) for each in images]
    named = [(content_key(each), each) for each in tiles]
    keys = keys_of([*[-200] * sum(each.num_tokens for each in tiles), *ids], named)
    return Sequence(keys, dict(named), sampling, tiny_folder.CONTEXT - len(keys), Ending())


def drawn_ids(seed: int, length: int) -> list[int]:
    return np.random.default_rng(seed).integers(3, 400, length).tolist()


def test_places_of_prompts_and_known_ones_are_counted_when_they_get_a_slot(parts):
    engine, ids = Engine(parts[0]), drawn_ids(0, 40)
    first, second = sequence_for(parts, [*ids, 5]), sequence_for(parts, [*ids, 6, 7])
    engine.run([first])
    assert (first.num_cached, engine.stats().prefix_queries, engine.stats().prefix_hits) == (0, 41, 0)
    engine.run([second])
    assert second.num_cached == 40 == second.num_prompt - second.num_prefilled
    assert (engine.stats().prefix_queries, engine.stats().prefix_hits) == (41 + 42, 40)


def test_a_sequence_that_waits_again_is_counted_once(parts):
    sampling = dataclasses.replace(GREEDY, max_new_tokens=400)
    engine = Engine(parts[0], max_places=768)
    sequences = [sequence_for(parts, drawn_ids(seed, 20), sampling=sampling) for seed in range(2)]
    engine.run(sequences)
    counts = engine.stats()
    assert counts.num_preemptions == 1 and counts.prefix_queries == 40 and counts.prefix_hits == 0
    assert [each.num_cached for each in sequences] == [0, 0]


def test_images_that_need_no_encoding_are_hits(parts):
    engine = Engine(parts[0], features=FeatureStore())
    engine.run([sequence_for(parts, drawn_ids(0, 40), images=(1, 2))])
    counts = engine.stats()
    assert (counts.image_queries, counts.image_hits, counts.num_encoded) == (2, 0, 2)
    assert counts.encode_seconds > 0
    engine.run([sequence_for(parts, drawn_ids(1, 9), images=(2, 3))])  # 2 is known as features
    engine.features.clear()
    engine.run([sequence_for(parts, [*drawn_ids(0, 40), 5], images=(1, 2))])  # both are in the prefix store
    counts = engine.stats()
    assert (counts.image_queries, counts.image_hits, counts.num_encoded) == (6, 3, 3)


def test_times_of_a_sequence_follow_each_other(parts):
    engine = Engine(parts[0], max_slots=1)
    early, late = (sequence_for(parts, drawn_ids(seed, 20)) for seed in range(2))
    assert (early.arrived, early.started, early.first_token, early.ended) == (None,) * 4
    engine.run([early, late])
    for each in (early, late):
        assert each.arrived <= each.started <= each.first_token <= each.ended
    assert late.started >= early.ended
    canceled = sequence_for(parts, drawn_ids(2, 20))
    canceled.arrived = 5.0  # the caller knows it better
    engine.add(canceled)
    engine.cancel(canceled)
    assert canceled.started is None and canceled.ended is not None and canceled.arrived == 5.0


def test_gauges_show_running_and_waiting_sequences_and_their_places(parts):
    engine = Engine(parts[0], max_slots=2, max_places=1024)
    sequences = [sequence_for(parts, drawn_ids(seed, 130)) for seed in range(3)]
    for each in sequences:
        engine.add(each)
    engine.step()
    counts = engine.stats()
    assert (counts.num_running, counts.num_waiting) == (2, 1)
    assert (counts.num_places, counts.max_places) == (2 * 256, 1024)
    engine.run([])
    for each in sequences:
        engine.cancel(each)
    counts = engine.stats()
    assert (counts.num_running, counts.num_waiting, counts.num_places, counts.num_failures) == (0, 0, 0, 0)


def test_counts_are_given_while_a_step_is_running(parts):
    engine, found = Engine(parts[0]), []
    with engine._lock:
        thread = threading.Thread(target=lambda: found.append(engine.stats()))
        thread.start()
        thread.join(5)
        assert found and found[0].max_places == engine.slots.max_places


def test_places_in_bytes_are_those_of_the_cache(parts):
    for num_slots, capacity in ((1, 1), (3, 200), (16, 512)):
        cache = parts[0].language_model.new_cache(num_slots, capacity)
        number = num_slots * cache.capacity
        assert places_in(parts[0], cache.num_bytes) == number
        assert places_in(parts[0], cache.num_bytes + 1) == number
        if number > 128:
            assert places_in(parts[0], cache.num_bytes - 1) == number - 1
    with pytest.raises(ValueError, match=r"GB of cache hold 2 places of this model.* at least 0.000046 GB"):
        places_in(parts[0], 1000)


def test_a_long_burst_of_different_prompts_keeps_memory_bounded(parts):
    num_cache, num_prefix, num_features = 1_200_000, 600_000, 60_000
    features = FeatureStore(num_features)
    engine = Engine(parts[0], max_places=places_in(parts[0], num_cache), prefix_bytes=num_prefix, features=features)
    rng = np.random.default_rng(0)
    most = {"cache": 0, "prefixes": 0, "features": 0}
    waiting = [burst_sequence(parts, rng, number) for number in range(300)]
    for each in waiting:
        engine.add(each)
    while engine.has_work:
        engine.step()
        found = (engine.slots.cache.num_bytes, engine.slots.prefixes.num_bytes, features.num_bytes)
        most = {name: max(most[name], number) for name, number in zip(most, found, strict=True)}
    assert num_cache / 2 < most["cache"] <= num_cache
    assert num_prefix / 2 < most["prefixes"] <= num_prefix
    assert num_features / 2 < most["features"] <= num_features
    assert {each.finish_reason for each in waiting} == {"length"}
    assert not any(each.features or each.slot is not None for each in waiting)
    check_nothing_else_is_kept(engine)


def burst_sequence(parts, rng, number: int) -> Sequence:
    """Return a sequence of a drawn length, every third one with images of which some come again."""
    images = rng.integers(0, 40, int(rng.integers(1, 3))).tolist() if number % 3 == 0 else ()
    sampling = dataclasses.replace(GREEDY, max_new_tokens=int(rng.integers(1, 12)))
    return sequence_for(parts, drawn_ids(number, int(rng.integers(1, 220))), images, sampling)


def check_nothing_else_is_kept(engine: Engine) -> None:
    """Check that what the stores hold is what they count, and that nothing of the ended sequences is left."""
    prefixes = engine.slots.prefixes
    assert sum(segment.num_bytes for segment in prefixes._segments) == prefixes.num_bytes
    assert {segment for segment, _, _ in prefixes._blocks.values()} <= set(prefixes._segments)
    each = engine.slots.cache.num_bytes // (engine.slots.cache.num_slots * engine.slots.cache.capacity)
    assert len(prefixes._blocks) * BLOCK * each <= prefixes.num_bytes
    assert engine.slots.cache.num_slots == 1
    assert not engine._schedule.encoder._tiles and not engine._schedule.waiting and not engine._schedule.active
