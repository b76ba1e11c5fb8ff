"""Which image features are kept, and when they are dropped."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import paddle
import pytest
import tiny_folder
from paddle import nn

from paddlemix import ChatSession, LlavaProcessor
from paddlemix.checkpoints.load import load_model
from paddlemix.conversation.messages import Conversation, Message
from paddlemix.generate.engine import Engine, engine_of, features_of
from paddlemix.generate.features import FeatureStore, ImageEncoder
from paddlemix.generate.sampling import SamplingParams
from paddlemix.image.preprocess import ImageTiles, content_key

ONE_TOKEN = SamplingParams(max_new_tokens=1)


@pytest.fixture(scope="module", params=["pad", "anyres"])
def parts(request):
    return tiny_folder.load(request.param)


@pytest.fixture
def named(parts):
    """Five images by content key, of a model that has not seen them."""
    parts[0].engine = None
    tiles = [parts[1].tiles(tiny_folder.random_image(seed)) for seed in range(5)]
    return {content_key(tile): tile for tile in tiles}


@pytest.fixture
def seen(parts):
    """How many tiles the tower was given, call by call."""
    calls = []
    hook = parts[0].vision_tower.register_forward_post_hook(lambda layer, inputs, output: calls.append(len(inputs[0])))
    yield calls
    hook.remove()


def block(number: int = 0):
    return paddle.full([8, 4], number, dtype="float32")  # 128 bytes


def alone(model, tiles: ImageTiles):
    with paddle.no_grad():
        return model.encode_images(tiles.pixels, [len(tiles.pixels)], [tiles.size])[0].numpy()


def encode_all(encoder: ImageEncoder, named, max_tiles: int) -> dict:
    """Encode images as an engine does, step by step."""
    finished: dict = {}
    while len(finished) < len(named):
        number, more = encoder.advance(named.items(), max_tiles)
        assert 0 < number <= max_tiles
        finished.update(more)
    assert encoder.advance(named.items(), max_tiles) == (0, {})
    return finished


def test_least_recently_used_images_are_dropped_beyond_the_limit():
    store = FeatureStore(max_bytes=3 * 128)
    for name in "abc":
        store.add(name, block())
    assert store.get("a") is not None  # now b is the oldest
    store.add("d", block())
    assert "b" not in store and len(store) == 3 and store.num_bytes == 3 * 128
    assert store.get("b") is None
    store.add("d", block())
    assert store.num_bytes == 3 * 128
    store.add("large", paddle.zeros([100, 4]))
    assert len(store) == 0 and store.num_bytes == 0


def test_many_threads_leave_the_counts_right():
    store = FeatureStore(max_bytes=5 * 128)
    errors = []

    def work(seed):
        rng = np.random.default_rng(seed)
        try:
            for name in map(str, rng.integers(0, 9, 300)):
                if store.get(name) is None:
                    store.add(name, block())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and len(store) <= 5 and store.num_bytes == len(store) * 128


@pytest.mark.parametrize("max_tiles", [1, 2, 3, 32])
def test_features_encoded_tile_by_tile_equal_those_of_each_image_at_once(max_tiles, parts, named, seen):
    model, store = parts[0], FeatureStore()
    finished = encode_all(ImageEncoder(model, store), named, max_tiles)
    assert sum(seen) == sum(len(tiles.pixels) for tiles in named.values()) and max(seen) <= max_tiles
    for name, tiles in named.items():
        np.testing.assert_allclose(finished[name].numpy(), alone(model, tiles), atol=1e-5)
        assert store.get(name) is finished[name]
    assert store.num_bytes == sum(tiles.num_tokens for tiles in named.values()) * 48 * 4


def test_copy_of_a_model_has_no_engine_of_the_original(parts):
    model, processor = parts
    ChatSession(model, processor, sampling=ONE_TOKEN).ask("What is this?", [tiny_folder.random_image(0)])
    assert len(features_of(model)) == 1
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps({"engine": model.engine}))):
        assert (other["engine"] if isinstance(other, dict) else other.engine) is None


def test_training_frees_the_engine_and_a_model_in_training_mode_keeps_nothing(parts, seen):
    model, processor = parts
    image = tiny_folder.random_image(0)

    class Wrapper(nn.Layer):
        def __init__(self):
            super().__init__()
            self.model = model

    around = Wrapper()
    for start in (model.train, around.train):
        engine = Engine(model)
        session = ChatSession(model, processor, sampling=ONE_TOKEN, engine=engine)
        ChatSession(model, processor, sampling=ONE_TOKEN).ask("What is this?", [image])
        session.ask("What is this?", [image])
        assert len(engine.features) == 1 and len(features_of(model)) == 1
        start()
        assert model.training and model.engine is None
        before = sum(seen)
        session.ask("And this?", [image])  # everything is computed again, the image as well
        assert sum(seen) == before + len(processor.tiles(image).pixels)
        assert session.num_prefilled == session.num_tokens - len(session.turns[-1].answer_ids)
        around.eval()
        assert not model.training


def test_changed_weights_are_used_after_training(parts):
    model, processor = parts
    engine, image = Engine(model), tiny_folder.random_image(0)
    answers = []
    weight = model.projector.parameters()[0]
    former = weight.numpy()
    for factor in (1, -3):
        model.train()
        weight.set_value(former * factor)
        model.eval()
        for each in (engine, Engine(model)):
            sampling = SamplingParams(max_new_tokens=8, ignore_eos=True)
            session = ChatSession(model, processor, sampling=sampling, engine=each)
            session.ask("What is this?", [image])
            answers.append(session.turns[0].answer_ids)
    model.train()
    weight.set_value(former)
    model.eval()
    assert answers[0] == answers[1] != answers[2] == answers[3]


def test_sessions_and_batches_of_one_model_share_its_features(parts, named, seen):
    model, processor = parts
    image, num_tiles = tiny_folder.random_image(0), len(processor.tiles(tiny_folder.random_image(0)).pixels)
    for question in ("What is this?", "And where?"):
        ChatSession(model, processor, sampling=ONE_TOKEN).ask(question, [image])
    sample = processor.encode(Conversation([Message.typed("What?", 1)], [image]))
    model.generate(processor.collate([sample]), ONE_TOKEN)
    assert sum(seen) == num_tiles


def test_any_model_class_has_an_engine_until_training_starts(parts):
    model = load_model(tiny_folder.folder("pad"), device="cpu")
    processor = LlavaProcessor.from_pretrained(tiny_folder.folder("pad"))
    calls = []
    model.vision_tower.register_forward_post_hook(lambda layer, inputs, output: calls.append(1))
    session = ChatSession(model, processor, sampling=ONE_TOKEN)
    for num_calls, act in ((1, None), (1, model.eval), (2, model.train)):
        if act is not None:
            act()
            model.eval()
            session.clear()
        session.ask("What is this?", [tiny_folder.random_image(0)])
        assert len(calls) == num_calls and session.engine is engine_of(model)
