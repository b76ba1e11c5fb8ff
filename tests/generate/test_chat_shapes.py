"""On a device that compiles for each shape, few shapes occur, and answers are the same as without buckets."""

from __future__ import annotations

import dataclasses

import pytest
import tiny_folder

from paddlemix import LlavaForConditionalGeneration
from paddlemix.conversation.messages import Conversation, Message
from paddlemix.generate import passes
from paddlemix.generate.engine import CARD_CHUNK, Engine
from paddlemix.generate.requests import Request, answer_all
from paddlemix.generate.sampling import SamplingParams
from paddlemix.generate.session import ChatSession
from paddlemix.models.language.cached_decoder import CachedDecoder
from paddlemix.models.language.decoder_layer import DecoderLayer
from paddlemix.models.vision.vit import VisionTower

CONTEXT = 2048
NUM_TURNS = 20
NUM_REQUESTS = 40


@pytest.fixture(scope="module")
def loaded():
    model, processor = tiny_folder.load("anyres")
    language = dataclasses.replace(model.config.language, max_position_embeddings=CONTEXT)
    longer = LlavaForConditionalGeneration(dataclasses.replace(model.config, language=language))
    longer.set_state_dict(model.state_dict())
    longer.eval()
    return longer, processor


@pytest.fixture
def shapes(monkeypatch):
    """Return the sets of shapes that decoder layers and the vision tower see, filled as they are called.

    Decoding goes through the decoder's own layers, as on such a device.
    """
    seen: dict[str, set] = {"cached": set(), "tower": set()}
    cached, tower = DecoderLayer.forward_cached, VisionTower.encode

    def see_cached(self, x, ropes, bias, key_bias, cache, number, places):
        seen["cached"].add((*x.shape, None if bias is None else cache.capacity))
        return cached(self, x, ropes, bias, key_bias, cache, number, places)

    def see_tower(self, pixels):
        seen["tower"].add(tuple(pixels.shape))
        return tower(self, pixels)

    monkeypatch.setattr(passes, "decoder_for", CachedDecoder)
    monkeypatch.setattr(DecoderLayer, "forward_cached", see_cached)
    monkeypatch.setattr(VisionTower, "encode", see_tower)
    return seen


def want_equal_shapes(monkeypatch, is_wanted: bool) -> None:
    for module in ("paddlemix.device", "paddlemix.models.kv_cache"):
        monkeypatch.setattr(f"{module}.wants_equal_shapes", lambda: is_wanted)


def converse(model, processor) -> list[list[int]]:
    """Return the answers of a long conversation with images of every shape, and turns of every length."""
    engine = Engine(model, chunk=CARD_CHUNK)
    session = ChatSession(model, processor, sampling=SamplingParams(max_new_tokens=9, ignore_eos=True), engine=engine)
    for turn in range(NUM_TURNS):
        images = [tiny_folder.random_image(turn)] if turn % 4 == 0 else []
        session.ask("What is this? " * (1 + turn * 5 % 7), images)
    return [turn.answer_ids for turn in session.turns]


def check_few_shapes(answer, loaded, shapes, monkeypatch) -> None:
    """Compare the answers with those where equal shapes matter, and bound the number of shapes that occur there."""
    expected = answer(*loaded)
    free = len(shapes["cached"])
    shapes["cached"].clear()
    shapes["tower"].clear()
    want_equal_shapes(monkeypatch, True)
    assert answer(*loaded) == expected
    print(f"shapes: {free} before, {len(shapes['cached'])} after, tower {len(shapes['tower'])}")
    assert free > 20 and len(shapes["cached"]) <= 12, shapes["cached"]
    assert 1 <= len(shapes["tower"]) <= 5


def test_a_chat_of_twenty_turns_has_few_shapes_and_the_same_answers(loaded, shapes, monkeypatch):
    check_few_shapes(converse, loaded, shapes, monkeypatch)


def answers_side_by_side(model, processor) -> list[tuple[int, ...]]:
    """Return the answers to questions of all lengths, answered by one engine."""
    requests = [
        Request(
            f"{number % 7} " + "What is this? " * (1 + number * 5 % 37),
            [tiny_folder.random_image(number % 3)] * (number % 2),
            SamplingParams(max_new_tokens=3 + number % 11, ignore_eos=True),
        )
        for number in range(NUM_REQUESTS)
    ]
    engine = Engine(model, chunk=CARD_CHUNK, max_slots=8)
    return [answer.token_ids for answer in answer_all(model, processor, requests, engine=engine)]


def test_requests_side_by_side_have_few_shapes_and_the_same_answers(loaded, shapes, monkeypatch):
    check_few_shapes(answers_side_by_side, loaded, shapes, monkeypatch)


def test_answers_of_several_rows_are_the_same_when_prompts_are_padded(loaded, monkeypatch):
    model, processor = loaded
    want_equal_shapes(monkeypatch, True)
    prompts = ("Hello", "What is this? " * 5)
    batch = processor.collate([processor.encode(Conversation([Message.typed(text)])) for text in prompts])
    sampling = SamplingParams(max_new_tokens=8, ignore_eos=True)
    padded = model.generate(batch, sampling)
    want_equal_shapes(monkeypatch, False)
    assert padded == model.generate(batch, sampling)
