"""Settings of an answer: what is refused, and what ends an answer or keeps it going."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import tiny_folder

from paddlemix.data.sample import Sample
from paddlemix.generate.engine import Engine
from paddlemix.generate.sampler import Sampler
from paddlemix.generate.sampling import SamplingParams
from paddlemix.generate.sequence import Sequence
from paddlemix.generate.turn import ContextFullError, ending_of, new_turn, sequence_of

NUMBERS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "max_new_tokens",
    "min_new_tokens",
    "num_logprobs",
    "lookup",
    "seed",
)


@pytest.fixture(scope="module")
def parts():
    return tiny_folder.load("pad")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_are_not_finite_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} is {value}: expected"):
        SamplingParams(**{name: value})
    with pytest.raises(ValueError, match=r"^logit_bias is"):
        SamplingParams(logit_bias=((3, value),))


@pytest.mark.parametrize(
    "options",
    [
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": 1e-300},
        {"repetition_penalty": 101.0},
        {"frequency_penalty": 2.1},
        {"presence_penalty": -2.1},
        {"logit_bias": ((-1, 0.0),)},
        {"logit_bias": ((1, 100.5),)},
        {"min_new_tokens": -1},
        {"min_new_tokens": 513},
        {"stop_ids": (-3,)},
        {"stop": ("a", "")},
        {"num_logprobs": -1},
        {"seed": -1},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_with_their_name(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name} is .*: expected "):
        SamplingParams(**options)


def test_the_limits_of_a_range_are_good_and_lists_become_tuples():
    params = SamplingParams(min_p=1.0, frequency_penalty=-2, presence_penalty=2, max_new_tokens=10**400, stop="end")
    assert params.stop == ("end",)
    params = SamplingParams(logit_bias=[[1, -100], (2, 100.0)], stop_ids=[4], min_new_tokens=512, num_logprobs=0)
    assert params.logit_bias == ((1, -100), (2, 100.0)) and params.stop_ids == (4,)
    hash(params)


@pytest.mark.parametrize(("field", "value"), [("logit_bias", ((420, 1.0),)), ("stop_ids", (5, 999))])
def test_ids_outside_of_the_vocabulary_are_refused_before_anything_runs(field, value, parts):
    turn = new_turn(parts[1], "Hello", [])
    sequence = sequence_of(parts[1], [turn], SamplingParams(**{field: value}), parts[0].config)
    engine = Engine(parts[0])
    with pytest.raises(ValueError, match=rf"{field} has token id \d+: the vocabulary has 420 tokens"):
        engine.add(sequence)
    assert not engine.has_work


def test_a_temperature_near_zero_is_greedy_without_a_warning():
    logits = np.array([1.0, 5.0, 4.0, -3.0], np.float32)
    for temperature in (1e-300, 1e-310, 1e-40):
        assert Sampler(SamplingParams(temperature=temperature, seed=0))(logits) == 1


def run(parts, text="What is this?", **options) -> Sequence:
    sampling = SamplingParams(**{"max_new_tokens": 24, **options})
    sequence = sequence_of(parts[1], [new_turn(parts[1], text, [])], sampling, parts[0].config)
    Engine(parts[0]).run([sequence])
    return sequence


def test_a_stop_id_ends_the_answer_and_stays_out_of_its_text(parts):
    whole = run(parts, ignore_eos=True)
    place = next(n for n in range(3, 24) if whole.answer_ids[n] not in whole.answer_ids[:n])
    token = whole.answer_ids[place]
    for options in ({}, {"ignore_eos": True}, {"min_new_tokens": place}):
        cut = run(parts, stop_ids=(token,), num_logprobs=0, **options)
        assert cut.answer_ids == whole.answer_ids[:place] and cut.text == cut_text(parts, cut)
        assert (cut.finish_reason, cut.stop_reason, cut.is_closed) == ("stop", token, False)
        assert [each.token for each in cut.logprobs] == whole.answer_ids[: place + 1]
    assert len(run(parts, stop_ids=(token,), min_new_tokens=place + 1).answer_ids) > place


def cut_text(parts, sequence: Sequence) -> str:
    return parts[1].tokenizer.decode(sequence.answer_ids).strip()


def test_a_stop_string_is_the_reason_only_if_it_was_asked_for(parts):
    whole = run(parts, ignore_eos=True)
    stop = whole.text[4:8]
    cut = run(parts, stop=(stop,))
    assert (cut.finish_reason, cut.stop_reason) == ("stop", stop) and cut.text == whole.text.partition(stop)[0].strip()
    assert (whole.finish_reason, whole.stop_reason) == ("length", None)
    ended = run(parts, logit_bias=((2, 100.0),))
    assert (ended.finish_reason, ended.stop_reason, ended.is_closed) == ("stop", None, True)
    processor = parts[1].with_template("v0")
    mark = processor.template.stop_strings[0]
    assert ending_of(processor, SamplingParams(), [2]).closing_texts == (mark,)


def test_an_answer_does_not_end_before_its_least_length(parts):
    biased = {"logit_bias": ((2, 100.0),), "num_logprobs": 1}
    for number in (0, 1, 7, 23, 24):
        sequence = run(parts, min_new_tokens=number, **biased)
        assert 2 not in sequence.answer_ids[:number]
        assert sequence.num_generated == min(number + 1, 24) == len(sequence.logprobs)
    whole = run(parts, ignore_eos=True)
    stop = whole.text[:2]
    late = run(parts, min_new_tokens=20, stop=(stop,), ignore_eos=True)
    assert late.num_generated >= 20 and late.text.startswith(stop)


def test_settings_that_need_nothing_change_nothing(parts):
    plain = run(parts)
    neutral = run(parts, logit_bias=((5, 0.0),), min_p=0.5, repetition_penalty=1.0, num_logprobs=3)
    assert neutral.answer_ids == plain.answer_ids and plain.logprobs == []
    assert all(each.top[0] == (each.token, each.logprob) for each in neutral.logprobs)
    sampled = run(parts, temperature=1.0, seed=5)
    assert run(parts, temperature=1.0, seed=5, logit_bias=((5, 0.0),), num_logprobs=0).answer_ids == sampled.answer_ids


def test_a_maximal_length_below_the_context_limits_the_room_of_an_answer(parts):
    sampling = SamplingParams(max_new_tokens=1000, ignore_eos=True)
    turn = new_turn(parts[1], "What is this?", [])
    number = len(turn.prompt_ids)
    sequence = sequence_of(parts[1], [turn], sampling, parts[0].config, max_length=number + 9)
    Engine(parts[0]).run([sequence])
    assert len(sequence.answer_ids) == 9 and sequence.finish_reason == "context"
    longer = sequence_of(parts[1], [turn], sampling, parts[0].config, max_length=10**9)
    assert longer.max_places == tiny_folder.CONTEXT
    with pytest.raises(ContextFullError, match=f"holds {number}"):
        sequence_of(parts[1], [turn], sampling, parts[0].config, max_length=number)


def test_ids_of_a_batch_end_at_stop_ids_too(parts):
    batch = parts[1].collate([Sample(np.array([1, 40, 50, 60]), None, ())])
    whole = parts[0].generate(batch, SamplingParams(max_new_tokens=9, ignore_eos=True))[0]
    sampling = dataclasses.replace(SamplingParams(max_new_tokens=9, ignore_eos=True), stop_ids=(whole[4],))
    assert parts[0].generate(batch, sampling)[0] == whole[: whole.index(whole[4])]
