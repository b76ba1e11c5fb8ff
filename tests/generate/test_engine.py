"""Sequences that join, leave and are canceled at drawn steps, against each of them alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny_folder

from paddlemix.generate.cache_keys import keys_of
from paddlemix.generate.engine import Engine
from paddlemix.generate.sampling import SamplingParams
from paddlemix.generate.sequence import Ending, Sequence
from paddlemix.image.preprocess import content_key

MAX_TIE = 1e-4  # of the two highest logits: closer ones may change places when a product has other rows beside it
GREEDY = SamplingParams(max_new_tokens=12, ignore_eos=True)
ENGINES = (
    {},
    {"max_slots": 3, "chunk": 16},
    {"max_slots": 5, "chunk": 7, "prefix_bytes": 0},
    {"max_places": 384, "chunk": 24},  # sequences are put back into the queue
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
    return Watched(keys, dict(named), sampling, tiny_folder.CONTEXT - len(keys), Ending(frozenset({2}), frozenset({2})))


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
    drawn = draw(np.random.default_rng(seed))
    sequences, alone = ([sequence_for(parts, d.ids, d.seeds, d.sampling) for d in drawn] for _ in range(2))
    for each in alone:
        Engine(parts[0]).run([each])
    engine = Engine(parts[0], **options)
    run_schedule(engine, sequences, drawn)
    for sequence, lonely, each in zip(sequences, alone, drawn, strict=True):
        check_same(sequence, lonely, is_whole=each.leaves is None)
    assert engine.num_running == 0 and engine.num_waiting == 0
