"""Sequences that join, leave and are canceled at drawn steps, against each of them alone."""

from __future__ import annotations

import concurrent.futures
import dataclasses

import numpy as np
import pytest
import tiny_folder

from paddlemix.generate import passes, schedule
from paddlemix.generate.cache_keys import keys_of
from paddlemix.generate.engine import Engine
from paddlemix.generate.sampler import highest_of
from paddlemix.generate.sampling import SamplingParams
from paddlemix.generate.sequence import Ending, Sequence
from paddlemix.image.preprocess import content_key
from paddlemix.models import kv_cache

MAX_TIE = 1e-4  # of the two highest logits: closer ones may change places when a product has other rows beside it
GREEDY = SamplingParams(max_new_tokens=12, ignore_eos=True)
ENGINES = (
    {},
    {"max_slots": 3, "chunk": 16},
    {"max_slots": 5, "chunk": 7, "prefix_bytes": 0},
    {"max_places": 384, "chunk": 24},
    {"max_places": 1024, "chunk": 5, "prefix_bytes": 60_000},
)


@pytest.fixture(scope="module", params=["pad", "anyres"])
def parts(request):
    return tiny_folder.load(request.param)


class Watched(Sequence):
    """A sequence that notes the difference of the two highest logits of every token."""

    def __post_init__(self):
        super().__post_init__()
        self.gaps: list[float] = []

    def choose(self, logits) -> int:
        highest = np.sort(logits)[-2:]
        self.gaps.append(float(highest[1] - highest[0]))
        return super().choose(logits)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A sequence to make, the step at which it is added, and the step at which it is canceled, or None."""

    ids: tuple[int, ...]
    seeds: tuple[int, ...]
    sampling: SamplingParams
    joins: int
    leaves: int | None = None


def sequence_for(parts, ids, seeds=(), sampling=GREEDY) -> Watched:
    """Return a sequence of these ids, with these images after the first id."""
    tiles = [parts[1].tiles(tiny_folder.random_image(seed)) for seed in seeds]
    named = [(content_key(each), each) for each in tiles]
    placeholders = [-200] * sum(each.num_tokens for each in tiles)
    keys = keys_of([ids[0], *placeholders, *ids[1:]], named)
    stops = frozenset() if sampling.ignore_eos else frozenset({2})
    return Watched(keys, dict(named), sampling, tiny_folder.CONTEXT - len(keys), Ending(stops, stops))


def draw(rng) -> list[Drawn]:
    """Draw sequences, of which some begin alike."""
    base = rng.integers(3, 400, 300).tolist()
    found = []
    for _ in range(rng.integers(2, 9)):
        shared, own = rng.integers(1, 60), rng.integers(1, 70)
        ids = (*base[:shared], *rng.integers(3, 400, own).tolist())
        seeds = tuple(rng.integers(0, 3, rng.choice([0, 0, 1, 2])).tolist())
        sampling = SamplingParams(
            temperature=float(rng.choice([0.0, 0.0, 1.0])),
            top_p=0.9,
            max_new_tokens=int(rng.integers(1, 30)),
            seed=int(rng.integers(0, 9)),
            lookup=int(rng.choice([0, 0, 3])),
            ignore_eos=bool(rng.integers(0, 2)),
        )
        joins = int(rng.integers(0, 25))
        leaves = joins + int(rng.integers(0, 15)) if rng.random() < 0.25 else None
        found.append(Drawn(ids, seeds, sampling, joins, leaves))
    return found


def run_schedule(engine: Engine, sequences: list[Watched], drawn: list[Drawn]) -> None:
    """Add and cancel sequences at their steps, and work until all have ended."""
    step = 0
    while step < 40 or engine.has_work:
        for sequence, each in zip(sequences, drawn, strict=True):
            if each.joins == step:
                engine.add(sequence)
            if each.leaves == step:
                engine.cancel(sequence)
        engine.step()
        step += 1
        assert step < 3000, "no end"


def check_same(sequence: Watched, alone: Watched, is_whole: bool) -> None:
    """Compare with the answer alone, up to the first token whose two highest logits were as good as equal."""
    assert sequence.is_open is False
    pairs = zip(sequence.answer_ids, alone.answer_ids, alone.gaps, strict=False)
    for place, (found, expected, gap) in enumerate(pairs):
        if found != expected:
            print(f"token {place}: {found} for {expected}, gap {gap}")
            assert alone.sampling.temperature == 0 and gap < MAX_TIE
            return
    if is_whole:
        assert sequence.answer_ids == alone.answer_ids and sequence.finish_reason == alone.finish_reason
        assert sequence.is_closed == alone.is_closed


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("options", ENGINES, ids=str)
def test_drawn_schedules_change_no_answer(options, seed, parts):
    check_schedule(parts, draw(np.random.default_rng(seed)), Engine(parts[0], **options))


def test_drawn_schedules_with_too_little_room_change_no_answer(parts, monkeypatch):
    monkeypatch.setattr(schedule, "RESERVED", 0)
    monkeypatch.setattr(kv_cache, "BUCKET", 16)
    num_preemptions = 0
    for seed in range(20, 32):
        drawn = [longer(each) for each in draw(np.random.default_rng(seed))]
        longest = max(sequence_for(parts, d.ids, d.seeds, d.sampling).max_places for d in drawn)
        engine = Engine(parts[0], max_places=longest + longest // 2, chunk=24)
        check_schedule(parts, drawn, engine)
        num_preemptions += engine.num_preemptions
    assert num_preemptions > 5


def longer(drawn: Drawn) -> Drawn:
    """Return a sequence that arrives earlier and answers longer."""
    number = drawn.sampling.max_new_tokens + 60
    sampling = dataclasses.replace(drawn.sampling, max_new_tokens=number, ignore_eos=True)
    return dataclasses.replace(drawn, sampling=sampling, joins=drawn.joins // 5)


def check_schedule(parts, drawn: list[Drawn], engine: Engine) -> None:
    """Run drawn sequences in an engine, and compare each with itself alone."""
    sequences, alone = ([sequence_for(parts, d.ids, d.seeds, d.sampling) for d in drawn] for _ in range(2))
    for each in alone:
        Engine(parts[0]).run([each])
    run_schedule(engine, sequences, drawn)
    for sequence, lonely, each in zip(sequences, alone, drawn, strict=True):
        check_same(sequence, lonely, is_whole=each.leaves is None)
    assert engine.num_running == 0 and engine.num_waiting == 0


def steps_until_idle(engine: Engine) -> list[list]:
    """Return the events of each step."""
    found = []
    while engine.has_work:
        found.append(engine.step())
    return found


def prompt(rng, length: int) -> list[int]:
    return rng.integers(3, 400, length).tolist()


def test_sequences_that_do_not_fit_any_more_wait_again_and_lose_nothing(parts):
    rng = np.random.default_rng(0)
    sampling = dataclasses.replace(GREEDY, max_new_tokens=400)
    pairs = [
        [sequence_for(parts, ids, sampling=sampling) for _ in range(2)] for ids in (prompt(rng, 20), prompt(rng, 9))
    ]
    for _, alone in pairs:
        Engine(parts[0]).run([alone])
    engine = Engine(parts[0], max_places=768)
    # Two answers fit at first, and not at the end.
    engine.run([sequence for sequence, _ in pairs])
    assert engine.num_preemptions == 1
    for sequence, alone in pairs:
        check_same(sequence, alone, is_whole=True)
        assert len(sequence.answer_ids) == 400


def test_running_answers_get_a_token_in_every_step_while_a_long_prompt_is_computed(parts):
    rng = np.random.default_rng(1)
    engine = Engine(parts[0], chunk=16)
    running = [sequence_for(parts, prompt(rng, 10), sampling=dataclasses.replace(GREEDY, max_new_tokens=60))]
    engine.add(running[0])
    engine.step()
    late = sequence_for(parts, prompt(rng, 200), seeds=(1,))
    engine.add(late)
    computed = 0
    while not late.answer_ids:
        events = engine.step()
        assert events[0].sequence is running[0]
        assert late.num_prefilled - computed <= 16
        computed = late.num_prefilled
    assert running[0].is_open


def test_alone_a_prompt_takes_larger_chunks(parts):
    rng = np.random.default_rng(2)
    sequence = sequence_for(parts, prompt(rng, 60), sampling=dataclasses.replace(GREEDY, max_new_tokens=1))
    assert len(steps_until_idle(run_one(Engine(parts[0], chunk=16), sequence))) == 1


def run_one(engine: Engine, sequence) -> Engine:
    engine.add(sequence)
    return engine


def test_images_are_encoded_a_tile_at_a_time_while_answers_are_running(parts, request):
    tiles = []
    hook = parts[0].vision_tower.register_forward_post_hook(lambda layer, inputs, output: tiles.append(len(inputs[0])))
    request.addfinalizer(hook.remove)
    rng = np.random.default_rng(3)
    engine = Engine(parts[0], chunk=8)
    first = sequence_for(parts, prompt(rng, 10), sampling=dataclasses.replace(GREEDY, max_new_tokens=60))
    engine.add(first)
    engine.step()
    second = sequence_for(parts, prompt(rng, 10), seeds=(1, 2))
    engine.add(second)
    num_steps = 0
    while not second.answer_ids:
        before = len(tiles)
        engine.step()
        num_steps += 1
        assert sum(tiles[before:]) <= 1
    assert sum(tiles) == sum(len(image.pixels) for image in second.images.values())
    assert len(first.answer_ids) == num_steps + 1


def test_a_canceled_sequence_leaves_no_tiles_of_an_unfinished_image_behind(parts):
    rng = np.random.default_rng(11)
    engine = Engine(parts[0], chunk=8)
    engine.add(sequence_for(parts, prompt(rng, 10)))
    engine.step()
    second = sequence_for(parts, prompt(rng, 10), seeds=(1,))
    engine.add(second)
    engine.step()
    encoder = engine._schedule.encoder
    assert list(encoder._tiles) == list(second.images) or len(engine.features) == 1
    engine.cancel(second)
    assert not encoder._tiles


def test_first_come_is_first_served(parts):
    rng = np.random.default_rng(4)
    engine = Engine(parts[0], max_slots=2, prefix_bytes=0)
    sequences = [sequence_for(parts, prompt(rng, int(length))) for length in rng.integers(5, 150, 7)]
    for sequence in sequences:
        engine.add(sequence)
    firsts = [event.sequence for events in steps_until_idle(engine) for event in events if event.sequence.answer_ids]
    order = list(dict.fromkeys(firsts))
    assert order == sequences


def test_a_sequence_that_can_never_fit_is_refused_with_its_counts(parts):
    rng = np.random.default_rng(5)
    engine = Engine(parts[0], max_places=128)
    large = sequence_for(parts, prompt(rng, 120))
    with pytest.raises(ValueError, match=r"120 tokens and its answer may have 12, but the cache holds 128 places"):
        engine.add(large)
    assert not engine.has_work
    engine.run([sequence_for(parts, prompt(rng, 100))])


def test_equal_prompts_that_arrive_together_are_computed_once(parts):
    rng = np.random.default_rng(6)
    base = prompt(rng, 90)
    sequences = [sequence_for(parts, [*base, *prompt(rng, 5)], seeds=(1,)) for _ in range(6)]
    Engine(parts[0]).run(sequences)
    counts = [sequence.num_prefilled for sequence in sequences]
    assert counts[0] == sequences[0].num_prompt and all(count == 5 for count in counts[1:])


def test_cache_shrinks_when_sequences_leave(parts):
    rng = np.random.default_rng(7)
    engine = Engine(parts[0])
    short, long = dataclasses.replace(GREEDY, max_new_tokens=3), dataclasses.replace(GREEDY, max_new_tokens=40)
    engine.run([sequence_for(parts, prompt(rng, 30), sampling=long if n == 5 else short) for n in range(8)])
    assert engine.slots.cache.num_slots == 1 and engine.num_running == 0


def test_logits_that_are_not_finite_end_their_sequence_alone(parts):
    rng = np.random.default_rng(8)
    good, bad = (sequence_for(parts, prompt(rng, 20)) for _ in range(2))
    alone = sequence_for(parts, good.keys)
    Engine(parts[0]).run([alone])
    choose = bad.choose
    bad.choose = lambda logits: choose(logits if len(bad.answer_ids) < 3 else logits * np.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        Engine(parts[0]).run([good, bad])
    check_same(good, alone, is_whole=True)
    assert bad.finish_reason == "error" and len(bad.answer_ids) == 3


def test_several_threads_may_stream_from_one_engine(parts):
    rng = np.random.default_rng(9)
    engine = Engine(parts[0], max_slots=2)
    pairs = [[sequence_for(parts, ids) for _ in range(2)] for ids in (prompt(rng, 20) for _ in range(5))]
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda pair: list(engine.stream(pair[0])), pairs))
    for sequence, alone in pairs:
        Engine(parts[0]).run([alone])
        check_same(sequence, alone, is_whole=True)
    assert not engine.has_work


def test_greedy_answers_from_the_highest_logits_alone_are_the_same(parts, monkeypatch):
    rng = np.random.default_rng(10)
    prompts = [prompt(rng, 20) for _ in range(3)]
    usual, reduced = (
        [Sequence(list(ids), {}, GREEDY, 100, Ending(num_known=300)) for ids in prompts] for _ in range(2)
    )
    Engine(parts[0]).run(usual)
    engine, copied = Engine(parts[0]), []
    engine._passes.is_on_card = True
    monkeypatch.setattr(passes, "highest_of", lambda logits: copied.append(logits.shape) or highest_of(logits))
    engine.run(reduced)
    assert [each.answer_ids for each in reduced] == [each.answer_ids for each in usual]
    assert len(copied) == GREEDY.max_new_tokens and {shape[1] for shape in copied} == {300}
    with pytest.raises(FloatingPointError):
        engine.run([broken(engine, monkeypatch)])


def broken(engine: Engine, monkeypatch) -> Sequence:
    """Return a sequence, and make the engine's logits infinite."""
    decoder = engine._passes.decoder
    logits = decoder.logits
    monkeypatch.setattr(decoder, "logits", lambda hidden: logits(hidden) + float("inf"))
    return Sequence([5, 6, 7], {}, GREEDY, 100, Ending())
