"""Sessions that share what they have read, against sessions that do not."""

from __future__ import annotations

import dataclasses

import pytest
import tiny_folder

from paddlemix import ChatSession, LlavaForConditionalGeneration
from paddlemix.generate.prefix_cache import MIN_PLACES, PrefixCache
from paddlemix.generate.sampling import SamplingParams
from paddlemix.models.config import RopeScaling

GREEDY = SamplingParams(max_new_tokens=6, ignore_eos=True)


@pytest.fixture(scope="module", params=["pad", "anyres"])
def parts(request):
    return tiny_folder.load(request.param)


def ask(parts, text, seeds, prefixes=None, session=None):
    """Return the session after one more question; its answer's ids are those of the last turn."""
    session = session or ChatSession(*parts, sampling=GREEDY, prefixes=prefixes)
    session.ask(text, [tiny_folder.random_image(seed) for seed in seeds])
    return session


def test_later_session_reads_only_its_question_and_answers_as_alone(parts):
    prefixes = PrefixCache()
    for number, (text, seeds) in enumerate([("What is this?", (1,)), ("Where is the blue one?", (1,)), ("Why?", (1,))]):
        session, alone = ask(parts, text, seeds, prefixes), ask(parts, text, seeds)
        assert session.turns[0].answer_ids == alone.turns[0].answer_ids
        places = [place for place, token in enumerate(session.turns[0].prompt_ids) if token == -200]
        if number:
            assert session.num_prefilled <= alone.num_prefilled - (max(places) + 1)
        later = ask(parts, "And now?", (2,), session=session)
        assert later.turns[1].answer_ids == ask(parts, "And now?", (2,), session=alone).turns[1].answer_ids
        assert later.num_prefilled == len(later.turns[1].prompt_ids) + 1
    assert len(prefixes) == 1 + 3  # the image alone, and each conversation up to its second image


def test_another_image_shares_the_system_text_alone(parts):
    prefixes = PrefixCache()
    ask(parts, "What is this?", (1,), prefixes)
    session, alone = ask(parts, "What is this?", (2,), prefixes), ask(parts, "What is this?", (2,))
    assert session.turns[0].answer_ids == alone.turns[0].answer_ids
    first = session.turns[0].prompt_ids.index(-200)
    assert first >= MIN_PLACES and session.num_prefilled == alone.num_prefilled - first
    text, plain = ask(parts, "Hello", (), prefixes), ask(parts, "Hello", ())
    assert text.turns[0].answer_ids == plain.turns[0].answer_ids and text.num_prefilled < plain.num_prefilled
    assert len(prefixes) == 2  # the beginning of the text alone is cached already


def test_answers_do_not_change_the_kept_prefix(parts):
    prefixes = PrefixCache()
    answers = [ask(parts, "What is this?", (1,), prefixes).turns[0].answer_ids for _ in range(4)]
    assert answers == [ask(parts, "What is this?", (1,)).turns[0].answer_ids] * 4


def test_least_recently_used_prefix_is_dropped(parts):
    prefixes = PrefixCache()
    ask(parts, "What is this?", (1,), prefixes)
    size = prefixes.num_bytes
    assert (
        size == max(place for place, token in enumerate(prompt(parts, 1)) if token == -200) * 2 * 2 * 2 * 12 * 4 + 384
    )
    small = PrefixCache(max_bytes=size + 1)
    ask(parts, "What is this?", (1,), small)
    ask(parts, "What is this?", (2,), small)
    assert len(small) <= 1 and small.num_bytes <= small.max_bytes
    prefixes.clear()
    assert len(prefixes) == 0 and prefixes.num_bytes == 0
    assert ask(parts, "What is this?", (1,), prefixes).num_prefilled == len(prompt(parts, 1))


def test_sequences_with_other_rotary_factors_share_nothing(parts):
    model, processor = parts
    start = len(prompt(parts, 1))
    factors = {name: [float(number + 1) for number in range(6)] for name in ("short_factor", "long_factor")}
    factors["long_factor"] = [3 * factor for factor in factors["long_factor"]]
    scaling = RopeScaling("longrope", 2.0, original_max_position_embeddings=start + 20, **factors)
    language = dataclasses.replace(model.config.language, rope_scaling=scaling)
    other = LlavaForConditionalGeneration(dataclasses.replace(model.config, language=language))
    other.set_state_dict(model.state_dict())
    other.eval()
    short, long = (SamplingParams(max_new_tokens=number, ignore_eos=True) for number in (6, 40))
    prefixes = PrefixCache()
    for number, sampling in enumerate((short, long, short, long)):
        session = ChatSession(other, processor, sampling=sampling, prefixes=prefixes)
        alone = ChatSession(other, processor, sampling=sampling)
        for each in (session, alone):
            each.ask("What is this?", [tiny_folder.random_image(1)])
        assert session.turns[0].answer_ids == alone.turns[0].answer_ids
        assert (session.num_prefilled < alone.num_prefilled) == (number >= 2)
    assert len(prefixes) == 2


def prompt(parts, seed):
    return ask(parts, "What is this?", (seed,)).turns[0].prompt_ids
