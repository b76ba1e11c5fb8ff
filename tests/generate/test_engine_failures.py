"""An error ends the sequences that it concerns. Others answer as if nothing had happened."""

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

GREEDY = SamplingParams(max_new_tokens=10, ignore_eos=True)


@pytest.fixture(scope="module")
def parts():
    return tiny_folder.load("pad")


def sequence_for(parts, seed: int, length: int = 20, images=(), sampling=GREEDY) -> Sequence:
    tiles = [parts[1].tiles(tiny_folder.random_image(each)) for each in images]
    named = [(content_key(each), each) for each in tiles]
    ids = [-200] * sum(each.num_tokens for each in tiles)
    ids = [1, *ids, *np.random.default_rng(seed).integers(3, 400, length).tolist()]
    return Sequence(keys_of(ids, named), dict(named), sampling, 400, Ending())


def answer_alone(parts, *arguments, **options) -> list[int]:
    sequence = sequence_for(parts, *arguments, **options)
    Engine(parts[0]).run([sequence])
    return sequence.answer_ids


def work(engine: Engine, sequences) -> None:
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work:
        engine.step()


class Failing:
    """A function that raises at some of its calls, and else does what it did before."""

    def __init__(self, function, error: Exception, calls):
        self.function, self.error, self.calls, self.number = function, error, set(calls), 0

    def __call__(self, *arguments, **options):
        self.number += 1
        if self.number in self.calls:
            raise self.error
        return self.function(*arguments, **options)


def fail(monkeypatch, owner, name: str, *calls: int, error: Exception | None = None) -> None:
    monkeypatch.setattr(owner, name, Failing(getattr(owner, name), error or MemoryError("no memory left"), calls))


@pytest.mark.parametrize(
    "error", [ValueError("no token may come"), FloatingPointError("nan"), RuntimeError("x")], ids=str
)
def test_an_error_while_a_token_is_chosen_ends_its_sequence_alone(error, parts, monkeypatch):
    sequences = [sequence_for(parts, seed) for seed in range(4)]
    fail(monkeypatch, sequences[2], "choose", 4, error=error)
    engine = Engine(parts[0])
    work(engine, sequences)
    assert [each.finish_reason for each in sequences] == ["length", "length", "error", "length"]
    assert sequences[2].error is error and len(sequences[2].answer_ids) == 3
    for seed in (0, 1, 3):
        assert sequences[seed].answer_ids == answer_alone(parts, seed)
    assert engine.stats().num_failures == 1


def test_excluding_all_tokens_ends_the_sequence_with_the_reason(parts):
    sampling = dataclasses.replace(GREEDY, ignore_eos=False, min_new_tokens=5, stop_ids=tuple(range(420)))
    sequence = sequence_for(parts, 0, sampling=sampling)
    sequence.ending = Ending(frozenset(range(420)))
    sequence.__post_init__()
    with pytest.raises(ValueError, match="no token may come next"):
        Engine(parts[0]).run([sequence])


@pytest.mark.parametrize("name", ["decode", "decode_guessed", "prefill"])
def test_a_failed_pass_ends_the_sequences_that_took_part_and_leaves_the_engine_usable(name, parts, monkeypatch):
    guessing = dataclasses.replace(GREEDY, lookup=2, max_new_tokens=90)
    options = [{}, {"sampling": guessing}, {"length": 60, "images": (1,)}, {"length": 5, "images": (1, 2)}]
    sequences = [sequence_for(parts, seed, **each) for seed, each in enumerate(options)]
    engine = Engine(parts[0], chunk=16)
    fail(monkeypatch, engine._passes, name, 1 if name == "decode_guessed" else 3)
    work(engine, sequences)
    failed = [seed for seed, each in enumerate(sequences) if each.finish_reason == "error"]
    assert 0 < len(failed) < 4 and engine.stats().num_failures == len(failed)
    for seed, each in enumerate(options):
        if seed in failed:
            assert isinstance(sequences[seed].error, MemoryError)
        else:
            assert sequences[seed].answer_ids == answer_alone(parts, seed, **each)
    assert engine.num_running == 0 and engine.slots.cache.num_slots == 1
    again = [sequence_for(parts, seed, **each) for seed, each in enumerate(options)]
    engine.run(again)
    assert [each.answer_ids for each in again] == [answer_alone(parts, n, **each) for n, each in enumerate(options)]


@pytest.mark.parametrize("owner", ["encoder", "slots", "resize"])
def test_an_error_before_a_pass_ends_the_sequence_that_it_was_for(owner, parts, monkeypatch):
    options = [{}, {"images": (1,)}, {"images": (2,)}, {}]
    sequences = [sequence_for(parts, seed, **each) for seed, each in enumerate(options)]
    engine = Engine(parts[0])
    schedule = engine._schedule
    if owner == "encoder":
        fail(monkeypatch, schedule.encoder, "advance", 2)
    elif owner == "slots":
        fail(monkeypatch, engine.slots, "place", 3)
    else:
        fail(monkeypatch, engine.slots, "_resize", 1)
    work(engine, sequences)
    expected = {"encoder": 2, "slots": 2, "resize": 1}[owner]
    assert [each.finish_reason for each in sequences].count("error") == 1
    assert sequences[expected].finish_reason == "error"
    for seed, each in enumerate(options):
        if seed != expected:
            assert sequences[seed].answer_ids == answer_alone(parts, seed, **each)
    assert not schedule.encoder._tiles


def test_an_engine_whose_passes_always_fail_ends_all_sequences(parts, monkeypatch):
    engine = Engine(parts[0])
    for name in ("decode", "decode_guessed", "prefill"):
        fail(monkeypatch, engine._passes, name, *range(100))
    sequences = [sequence_for(parts, seed, images=(seed,)) for seed in range(5)]
    work(engine, sequences)
    assert all(each.finish_reason == "error" for each in sequences)


def test_an_interruption_is_not_taken_for_an_error(parts, monkeypatch):
    engine, sequence = Engine(parts[0]), sequence_for(parts, 0)
    fail(monkeypatch, engine._passes, "decode", 2, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        engine.run([sequence])
    assert sequence.finish_reason == "interrupted"
    engine.run([sequence_for(parts, 1)])


def test_a_failed_pass_keeps_no_tensors_alive_through_its_error(parts, monkeypatch):
    engine, sequence = Engine(parts[0]), sequence_for(parts, 0)
    fail(monkeypatch, engine._passes.decoder, "logits", 1)
    work(engine, [sequence])
    frame, kept = sequence.error.__traceback__, []
    while frame is not None:
        if frame.tb_frame.f_code.co_name in ("prefill", "_logits", "_prefill_runs"):
            kept += list(frame.tb_frame.f_locals)
        frame = frame.tb_next
    assert kept == []
