"""Batches whose rows leave when they are done, against one row at a time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny_folder

from paddlemix.conversation.messages import Conversation, Message
from paddlemix.generate.batch import generate
from paddlemix.generate.engine import Engine
from paddlemix.generate.sampling import SamplingParams

QUESTIONS = (
    ("What is this?", (1,)),
    ("Hello", ()),
    ("Compare the pictures, from left to right.", (2, 1)),
    ("And why?", (1,)),
    ("How many red shapes are on the left of the blue one, and where is the green star?", (3,)),
    ("What is this?", (1,)),
    ("Where?", ()),
)
GREEDY = SamplingParams(max_new_tokens=24)
SEEDED = SamplingParams(temperature=1.0, top_p=0.95, max_new_tokens=24, seed=5)


@pytest.fixture(scope="module", params=["pad", "anyres"])
def parts(request):
    """A model whose answers end early, after a number of tokens that differs from row to row."""
    model, processor = tiny_folder.load(request.param)
    ends = tuple(range(2, model.config.language.vocab_size, 16))
    model.config = dataclasses.replace(model.config, eos_token_ids=ends)
    return model, processor


def batch_of(processor, questions):
    conversations = [
        Conversation([Message.typed(text, len(seeds))], [tiny_folder.random_image(seed) for seed in seeds])
        for text, seeds in questions
    ]
    return processor.collate([processor.encode(each) for each in conversations])


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_answers_of_a_batch_are_those_of_each_row_alone(sampling, parts):
    model, processor = parts
    alone = [model.generate(batch_of(processor, [question]), sampling)[0] for question in QUESTIONS]
    lengths = sorted(map(len, alone))
    assert len(set(lengths)) > 3 and lengths[len(lengths) // 2] < lengths[-1]
    assert model.generate(batch_of(processor, QUESTIONS), sampling) == alone
    for options in ({"prefix_bytes": 0}, {"max_slots": 2}):
        assert generate(model, batch_of(processor, QUESTIONS), sampling, engine=Engine(model, **options)) == alone


def test_a_batch_leaves_no_cache_behind(parts):
    model, processor = parts
    model.generate(batch_of(processor, QUESTIONS), GREEDY)
    assert model.engine.slots.cache.num_slots == 1 and not any(model.engine.slots.cache.lengths)
    assert model.engine.slots.prefixes.num_bytes == 0


def test_a_short_row_may_go_on_after_a_long_one_has_filled_the_context(parts):
    model, processor = parts
    sampling = SamplingParams(max_new_tokens=60, ignore_eos=True)
    questions = [("Hello", ()), ("word " * 80, ())]
    together = batch_of(processor, questions)
    length = together.token_ids.shape[1]
    config = model.config
    model.config = dataclasses.replace(
        config, language=dataclasses.replace(config.language, max_position_embeddings=length + 20)
    )
    try:
        answers = model.generate(together, sampling)
        assert [len(answer) for answer in answers] == [60, 20]
        assert answers == [model.generate(batch_of(processor, [question]), sampling)[0] for question in questions]
    finally:
        model.config = config


def test_same_image_twice_in_a_batch_is_encoded_once(parts, request):
    model, processor = parts
    model.engine = None
    calls = []
    hook = model.vision_tower.register_forward_post_hook(lambda layer, inputs, output: calls.append(len(inputs[0])))
    request.addfinalizer(hook.remove)
    model.generate(batch_of(processor, QUESTIONS), SamplingParams(max_new_tokens=1))
    distinct = sum(len(processor.tiles(tiny_folder.random_image(seed)).pixels) for seed in (1, 2, 3))
    assert sum(calls) == distinct
    model.generate(batch_of(processor, QUESTIONS[:3]), SamplingParams(max_new_tokens=1))
    assert sum(calls) == distinct


def test_pixels_that_do_not_belong_to_the_ids_are_refused(parts):
    model, processor = parts
    batch = batch_of(processor, QUESTIONS[:1])
    with pytest.raises(ValueError, match="tiles"):
        model.generate(dataclasses.replace(batch, pixels=np.concatenate([batch.pixels, batch.pixels])))
    with pytest.raises(ValueError, match="image placeholders"):
        model.generate(dataclasses.replace(batch, pixels=None, tiles_per_image=None, image_sizes=None))
    with pytest.raises(ValueError, match="the tokenizer is not this model's"):
        model.generate(dataclasses.replace(batch, token_ids=batch.token_ids + 10_000 * (batch.token_ids > 5)))
