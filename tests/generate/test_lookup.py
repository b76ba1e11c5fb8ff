"""Guessing from the text so far: fewer passes, and never another answer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny_folder

from paddlemix import ChatSession, LlavaForConditionalGeneration, LlavaProcessor
from paddlemix.generate.engine import Engine
from paddlemix.generate.lookup import Lookup
from paddlemix.generate.sampling import SamplingParams
from paddlemix.models.config import RopeScaling

TINY = Path(__file__).parents[2] / "paddlemix" / "examples" / "llava" / "tiny"
GREEDY = SamplingParams(max_new_tokens=40, ignore_eos=True)
SEEDED = SamplingParams(temperature=0.7, top_p=0.9, max_new_tokens=40, seed=3, ignore_eos=True)
TURNS = (("Red blue red blue red blue", ()), ("What is this?", (1,)), ("And why?", ()), ("What is this?", (2, 1)))


@pytest.fixture(scope="module", params=["pad", "anyres"])
def parts(request):
    return tiny_folder.load(request.param)


def repeating(model):
    """Make a model's greedy answers repeat themselves, as those of untrained models with small weights do."""
    for parameter in model.language_model.parameters():
        if parameter.ndim == 2:
            parameter.set_value(parameter * 0.5)
    return model


def talk(model, processor, sampling, turns=TURNS):
    """Return each turn's ids, text and finish reason, and the passes of all."""
    session, passes = ChatSession(model, processor, sampling=sampling, engine=Engine(model)), 0
    for text, seeds in turns:
        session.ask(text, [tiny_folder.random_image(seed) for seed in seeds])
        passes += session.num_passes
    return [(turn.answer_ids, turn.answer, turn.finish_reason, turn.is_closed) for turn in session.turns], passes


@pytest.mark.parametrize("lookup", [1, 5])
@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_answers_of_a_tiny_random_model_stay_as_they_are(sampling, lookup, parts):
    plain, num_plain = talk(*parts, sampling)
    assert num_plain == sum(len(ids) for ids, *_ in plain)  # one pass a token, the first one over the prompt
    found, num_passes = talk(*parts, dataclasses.replace(sampling, lookup=lookup))
    assert found == plain and num_passes <= num_plain


def test_text_that_repeats_itself_takes_far_fewer_passes():
    model, processor = tiny_folder.load("pad")
    repeating(model)
    plain, num_plain = talk(model, processor, GREEDY)
    assert len(set(plain[0][0][20:])) < 20  # it runs in circles
    found, num_passes = talk(model, processor, dataclasses.replace(GREEDY, lookup=5))
    assert found == plain and num_passes < 0.6 * num_plain


def test_bundled_model_answers_the_same_in_fewer_passes():
    model = LlavaForConditionalGeneration.from_pretrained(TINY / "model")
    processor = LlavaProcessor.from_pretrained(TINY / "model")
    questions = ["Describe the picture.", "Describe the picture.", "How many shapes are there?"]
    results = []
    for lookup in (0, 4):
        session, passes = ChatSession(model, processor, engine=Engine(model)), 0
        sampling = SamplingParams(max_new_tokens=100, lookup=lookup)
        for number, question in enumerate(questions):
            session.ask(question, [TINY / "shapes.png"] if number == 0 else (), sampling)
            passes += session.num_passes
        results.append(([turn.answer_ids for turn in session.turns], passes))
        assert all(turn.is_closed for turn in session.turns)
    assert results[0][0] == results[1][0]
    assert results[1][1] < 0.9 * results[0][1]


def test_stop_string_within_the_guesses_ends_the_answer_where_it_did():
    model, processor = tiny_folder.load("pad")
    repeating(model)
    plain = talk(model, processor, GREEDY, TURNS[:1])[0][0][1]
    for place in (8, 15, 22):
        sampling = dataclasses.replace(GREEDY, stop=(plain[place : place + 3],))
        expected = talk(model, processor, sampling)
        found = talk(model, processor, dataclasses.replace(sampling, lookup=6))
        assert found[0] == expected[0] and found[1] <= expected[1]


@pytest.mark.parametrize("room", [1, 2, 6, 20])
def test_guesses_never_go_beyond_the_context(room):
    model, processor = tiny_folder.load("pad")
    repeating(model)
    length = len(ChatSession(model, processor)._new_turn("Red blue", ()).prompt_ids)
    language = dataclasses.replace(model.config.language, max_position_embeddings=length + room)
    model.config = dataclasses.replace(model.config, language=language)
    plain = talk(model, processor, GREEDY, [("Red blue", ())])
    found = talk(model, processor, dataclasses.replace(GREEDY, lookup=5), [("Red blue", ())])
    assert found[0] == plain[0] and found[0][0][2] == "context" and len(found[0][0][0]) == room


def test_interrupted_answer_with_guesses_leaves_a_usable_conversation():
    model, processor = tiny_folder.load("pad")
    repeating(model)
    answers = []
    for lookup in (0, 5):
        session = ChatSession(model, processor, sampling=dataclasses.replace(GREEDY, lookup=lookup))
        stream = session.stream("Red blue red blue")
        while len(session.turns[0].answer_ids) < 20:
            next(stream)
        stream.close()
        session.ask("And why?")
        answers.append([turn.answer_ids for turn in session.turns])
    assert answers[0] == answers[1]


def test_guesses_do_not_change_the_answers_of_long_sequences():
    model, processor = tiny_folder.load("pad")
    repeating(model)
    scaling = RopeScaling(
        "longrope",
        4.0,
        original_max_position_embeddings=128,
        short_factor=[1.0] * 6,
        long_factor=[1.0, 2.0, 3.0, 5.0, 8.0, 9.0],
    )
    language = dataclasses.replace(model.config.language, rope_scaling=scaling)
    other = type(model)(dataclasses.replace(model.config, language=language))
    other.set_state_dict(model.state_dict())
    other.eval()
    plain, num_plain = talk(other, processor, GREEDY)
    found, num_passes = talk(other, processor, dataclasses.replace(GREEDY, lookup=5))
    assert found == plain and num_passes < num_plain


def reference_guess(keys, number):
    """Find the last earlier place of the last three keys, else of the last two, and repeat what followed."""
    for width in (3, 2):
        for place in range(len(keys) - 1, width - 1, -1):
            if len(keys) > width and keys[place - width : place] == keys[-width:]:
                period = keys[place:]
                return [period[step % len(period)] for step in range(number)]
    return []


def test_lookup_equals_a_search_of_the_whole_text():
    rng = np.random.default_rng(0)
    for _ in range(60):
        keys, lookup = rng.integers(0, 4, rng.integers(0, 40)).tolist(), Lookup()
        for start in range(0, len(keys), 7):
            lookup.append(keys[start : start + 7])
            assert lookup.guess(5) == reference_guess(keys[: start + 7], 5)


def test_places_of_an_image_are_never_guessed():
    lookup = Lookup()
    lookup.append([1, 2, 3, ("a", 0), ("a", 1), 4, 5, 1, 2, 3])
    assert lookup.guess(2) == []
    lookup.append([("b", 0), ("b", 1), 4, 5])
    assert lookup.guess(3) == [1, 2, 3]


def test_a_negative_number_of_guesses_is_refused():
    with pytest.raises(ValueError, match="lookup is -1: expected at least 0"):
        SamplingParams(lookup=-1)
