"""Sequences that begin like earlier ones, against sequences of an engine that knows nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import paddle
import pytest
import tiny_folder

from paddlemix import ChatSession, LlavaForConditionalGeneration
from paddlemix.generate.engine import Engine
from paddlemix.generate.prefix_store import BLOCK, PrefixStore
from paddlemix.generate.sampling import SamplingParams
from paddlemix.generate.slots import MIN_SHARED
from paddlemix.models.config import RopeScaling
from paddlemix.models.kv_cache import Taken

GREEDY = SamplingParams(max_new_tokens=6, ignore_eos=True)


@pytest.fixture(scope="module", params=["pad", "anyres"])
def parts(request):
    return tiny_folder.load(request.param)


def ask(parts, text, seeds, engine=None, session=None):
    """Return the session after one more question; its answer's ids are those of the last turn."""
    session = session or ChatSession(*parts, sampling=GREEDY, engine=engine or Engine(parts[0]))
    session.ask(text, [tiny_folder.random_image(seed) for seed in seeds])
    return session


def ids_of(session):
    return session.turns[-1].answer_ids


def one_slot(model, **options):
    """Return an engine whose sequences overwrite each other's slot."""
    return Engine(model, max_slots=1, **options)


@pytest.mark.parametrize("make", [Engine, one_slot])
def test_later_session_computes_only_its_question_and_answers_as_alone(make, parts):
    engine = make(parts[0])
    for number, (text, seeds) in enumerate([("What is this?", (1,)), ("Where is the blue one?", (1,)), ("Why?", (1,))]):
        session, alone = ask(parts, text, seeds, engine), ask(parts, text, seeds)
        assert ids_of(session) == ids_of(alone)
        places = [place for place, token in enumerate(session.turns[0].prompt_ids) if token == -200]
        if number:
            assert session.num_prefilled <= alone.num_prefilled - (max(places) + 1)
        ask(parts, "And now?", (2,), session=session)
        assert ids_of(session) == ids_of(ask(parts, "And now?", (2,), session=alone))
        assert session.num_prefilled == len(session.turns[1].prompt_ids) + 1


def test_another_image_shares_the_system_text_alone(parts):
    engine = Engine(parts[0])
    ask(parts, "What is this?", (1,), engine)
    session, alone = ask(parts, "What is this?", (2,), engine), ask(parts, "What is this?", (2,))
    assert ids_of(session) == ids_of(alone)
    first = session.turns[0].prompt_ids.index(-200)
    assert first >= MIN_SHARED and session.num_prefilled == alone.num_prefilled - first


def test_conversations_that_take_turns_in_one_slot_come_back_from_the_store(parts):
    engine = one_slot(parts[0])
    sessions = [ChatSession(*parts, sampling=GREEDY, engine=engine) for _ in range(3)]
    alone = [ChatSession(*parts, sampling=GREEDY, engine=Engine(parts[0])) for _ in range(3)]
    for text in ("What is this?", "And why?", "Where?"):
        for number, (session, other) in enumerate(zip(sessions, alone, strict=True)):
            seeds = (number,) if text == "What is this?" else ()
            ask(parts, text, seeds, session=session)
            assert ids_of(session) == ids_of(ask(parts, text, seeds, session=other))
            if not seeds:  # at most a block is computed again
                assert session.num_prefilled < len(session.turns[-1].prompt_ids) + 1 + BLOCK


def test_without_a_store_an_overwritten_conversation_is_computed_again(parts):
    engine = one_slot(parts[0], prefix_bytes=0)
    first = ask(parts, "What is this?", (1,), engine)
    ask(parts, "Hello", (), engine)
    ask(parts, "And why?", (), session=first)
    assert first.num_prefilled > first.turns[0].prompt_ids.count(-200)  # the image, too
    assert engine.slots.prefixes.num_bytes == 0


def test_sequences_with_other_rotary_factors_share_nothing(parts):
    model, processor = parts
    start = len(ask(parts, "What is this?", (1,)).turns[0].prompt_ids)
    factors = {name: [float(number + 1) for number in range(6)] for name in ("short_factor", "long_factor")}
    factors["long_factor"] = [3 * factor for factor in factors["long_factor"]]
    scaling = RopeScaling("longrope", 2.0, original_max_position_embeddings=start + 20, **factors)
    language = dataclasses.replace(model.config.language, rope_scaling=scaling)
    other = LlavaForConditionalGeneration(dataclasses.replace(model.config, language=language))
    other.set_state_dict(model.state_dict())
    other.eval()
    short, long = (SamplingParams(max_new_tokens=number, ignore_eos=True) for number in (6, 40))
    engine = Engine(other)
    for number, sampling in enumerate((short, long, short, long)):
        session = ChatSession(other, processor, sampling=sampling, engine=engine)
        alone = ChatSession(other, processor, sampling=sampling, engine=Engine(other))
        for each in (session, alone):
            each.ask("What is this?", [tiny_folder.random_image(1)])
        assert ids_of(session) == ids_of(alone)
        assert (session.num_prefilled < alone.num_prefilled) == (number >= 2)


class Cache:
    """Stands for a cache of one layer: place n contains the number n."""

    def __init__(self):
        self.taken: list[tuple[int, int]] = []

    def take(self, start, end):
        self.taken.append((start, end))
        numbers = paddle.arange(start, end, dtype="float32").reshape([1, 1, -1, 1])
        return Taken([numbers, -numbers])


def contents(found):
    """Return the numbers of the blocks found."""
    parts = [each.segment.blocks(each.start, each.end).parts[0].flatten().numpy() for each in found]
    return np.concatenate(parts).tolist() if parts else []


def keep(store, keys, is_long=False):
    cache = Cache()
    store.keep(keys, is_long, cache.take)
    return cache.taken


def test_whole_blocks_are_found_and_equal_beginnings_are_stored_once():
    store, base = PrefixStore(), list(range(100))
    assert keep(store, base) == [(0, 96)]
    assert keep(store, base) == [] and keep(store, base[:50]) == []
    other = [*base[:70], *range(500, 530)]
    assert keep(store, other) == [(64, 96)]
    assert store.num_bytes == (96 + 32) * 2 * 4
    for keys, number in ((base, 96), (other, 96), (base[:15], 0), (base[:33], 32), ([7, *base], 0)):
        found, blocks = store.find(keys, False)
        assert found == number and contents(blocks) == list(range(number))
    assert store.find(base, True) == (0, [])
    assert keep(store, base, is_long=True) == [(0, 96)]


def test_equal_hashes_of_other_keys_are_not_taken_for_the_same(monkeypatch):
    store = PrefixStore()
    monkeypatch.setattr("builtins.hash", lambda value: 7)
    keep(store, list(range(BLOCK)))
    assert store.find(list(range(BLOCK)), False)[0] == BLOCK
    assert store.find(list(range(1, BLOCK + 1)), False)[0] == 0


def test_least_recently_used_segments_are_dropped_and_those_that_they_continue_last():
    size = 2 * 4 * BLOCK  # bytes of a block
    store = PrefixStore(max_bytes=4 * size)
    base, longer = list(range(32)), list(range(64))
    keep(store, base)
    keep(store, longer)
    assert store.find(longer, False)[0] == 64 and store.num_bytes == 4 * size
    keep(store, [-1] * BLOCK)  # instead of the end of `longer`
    assert store.find(longer, False)[0] == 32 and store.num_bytes == 3 * size
    keep(store, [-2] * 80)  # larger than the store
    assert store.num_bytes <= 4 * size and store.find([-2] * 80, False)[0] == 0
    store.clear()
    assert store.num_bytes == 0 and store.find(base, False) == (0, [])
