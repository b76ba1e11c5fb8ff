"""Answers with penalties, biases, limits, logprobs and grammars are the same alone and beside others."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import tiny_folder

from paddlemix.generate import passes
from paddlemix.generate.engine import Engine
from paddlemix.generate.sampler import Highest
from paddlemix.generate.sampling import Grammar, SamplingParams
from paddlemix.generate.sequence import Sequence
from paddlemix.generate.turn import named_image, new_turn, sequence_of

SCHEMA = {"type": "array", "items": {"enum": ["red", "blue", {"n": 1}]}, "minItems": 2, "maxItems": 6}
ENGINES = ({"max_slots": 3, "chunk": 16}, {"max_places": 768, "chunk": 24}, {"prefix_bytes": 60_000})


@pytest.fixture(scope="module", autouse=True)
def has_grammars():
    pytest.importorskip("llguidance", reason="is optional")


@pytest.fixture(scope="module")
def parts():
    return tiny_folder.load("pad")


def draw_sampling(rng) -> SamplingParams:
    """Draw settings of an answer, each of the fields at its default half of the time."""

    def one_of(default, *values):
        return default if rng.random() < 0.5 else values[int(rng.integers(len(values)))]

    grammar = one_of(None, Grammar(json.dumps(SCHEMA)), None)
    return SamplingParams(
        temperature=one_of(0.0, 0.7, 1.3),
        top_p=one_of(1.0, 0.8),
        top_k=one_of(0, 20),
        min_p=one_of(0.0, 0.05),
        max_new_tokens=int(rng.integers(10, 50)),
        seed=int(rng.integers(100)),
        stop=one_of((), ("e",), ("zz", "a")),
        ignore_eos=grammar is None and bool(rng.integers(2)),
        lookup=one_of(0, 3),
        repetition_penalty=one_of(1.0, 1.3, 0.8),
        frequency_penalty=one_of(0.0, 0.6, -0.4),
        presence_penalty=one_of(0.0, 0.9),
        logit_bias=one_of((), ((5, 3.0), (9, -100.0), (2, 1.0))),
        min_new_tokens=one_of(0, 8),
        stop_ids=one_of((), (7, 50), (260, 300, 340)),
        num_logprobs=one_of(None, 0, 4),
        grammar=grammar,
    )


def sequence_for(parts, seed: int) -> Sequence:
    """Return a sequence that is drawn with a seed."""
    rng = np.random.default_rng(seed)
    images = [tiny_folder.random_image(int(each)) for each in rng.integers(0, 3, int(rng.integers(0, 2)))]
    text = tiny_folder.SENTENCES[int(rng.integers(len(tiny_folder.SENTENCES)))] * int(rng.integers(1, 4))
    turn = new_turn(parts[1], text, [named_image(parts[1], image) for image in images])
    return sequence_of(parts[1], [turn], draw_sampling(rng), parts[0].config)


def check_same(sequence: Sequence, alone: Sequence) -> None:
    assert sequence.error is None and sequence.answer_ids == alone.answer_ids and sequence.text == alone.text
    assert (sequence.finish_reason, sequence.stop_reason) == (alone.finish_reason, alone.stop_reason)
    assert len(sequence.logprobs) == len(alone.logprobs)
    for found, expected in zip(sequence.logprobs, alone.logprobs, strict=True):
        assert found.token == expected.token and found.logprob == pytest.approx(expected.logprob, abs=1e-4)
        assert [each for _, each in found.top] == pytest.approx([each for _, each in expected.top], abs=1e-4)


@pytest.fixture(scope="module")
def lonely(parts):
    """Return sequences that were answered alone, by their seeds."""
    found = {seed: sequence_for(parts, seed) for seed in range(30)}
    for sequence in found.values():
        Engine(parts[0]).run([sequence])
    return found


@pytest.mark.parametrize("options", ENGINES, ids=str)
def test_drawn_settings_give_the_same_answers_alone_and_in_company(options, parts, lonely):
    sequences = {seed: sequence_for(parts, seed) for seed in lonely}
    engine, rng, left = Engine(parts[0], **options), np.random.default_rng(0), list(sequences.values())
    while left or engine.has_work:
        while left and rng.random() < 0.4:
            engine.add(left.pop(0))
        engine.step()
    for seed, sequence in sequences.items():
        check_same(sequence, lonely[seed])


def test_the_drawn_answers_differ_in_what_they_have_and_how_they_end(lonely):
    ends = {sequence.finish_reason for sequence in lonely.values()}
    reasons = {type(sequence.stop_reason) for sequence in lonely.values()}
    assert ends == {"stop", "length"} and reasons == {type(None), int, str}
    with_grammar = [each for each in lonely.values() if each.sampling.grammar and each.finish_reason == "stop"]
    whole = [each for each in with_grammar if each.stop_reason is None]
    assert len(whole) > 2
    assert all(set(map(str, json.loads(each.text))) <= {"red", "blue", "{'n': 1}"} for each in whole)
    assert any(each.sampling.lookup and each.num_passes < each.num_generated for each in lonely.values())


@pytest.mark.parametrize(
    "options",
    [
        {"presence_penalty": 1.0},
        {"repetition_penalty": 1.2},
        {"logit_bias": ((5, 1.0),)},
        {"num_logprobs": 0},
        {"min_new_tokens": 3},
        {"grammar": Grammar(json.dumps(SCHEMA))},
    ],
    ids=lambda options: next(iter(options)),
)
def test_all_logits_leave_a_card_only_if_some_answer_needs_them(options, parts, monkeypatch):
    greedy = SamplingParams(max_new_tokens=12)
    turn = new_turn(parts[1], "What is this?", [])
    kinds = []
    for sampling in (greedy, dataclasses.replace(greedy, **options)):
        alone, together = ([make(parts, turn, each) for each in (greedy, sampling)] for _ in range(2))
        for sequence in alone:
            Engine(parts[0]).run([sequence])
        engine = Engine(parts[0])
        engine._passes.is_on_card = True
        logits = engine._passes._logits
        monkeypatch.setattr(engine._passes, "_logits", lambda *given, logits=logits: noted(kinds, logits(*given)))
        engine.run(together)
        for sequence, lonely in zip(together, alone, strict=True):
            check_same(sequence, lonely)
    half = kinds.index(False)
    assert all(kinds[:half]) and half > 3 and not kinds[half]


def make(parts, turn, sampling) -> Sequence:
    return sequence_of(parts[1], [turn], sampling, parts[0].config)


def noted(kinds: list[bool], logits: passes.Logits) -> passes.Logits:
    """Note whether logits are the highest ones alone."""
    kinds.append(isinstance(logits[0], Highest))
    return logits
