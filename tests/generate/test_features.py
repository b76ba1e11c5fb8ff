"""Which image features stay cached, and when they are dropped."""

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
from paddlemix.generate.features import MAX_TILES, FeatureCache, encode_missing
from paddlemix.generate.sampling import SamplingParams
from paddlemix.image.preprocess import ImageTiles, content_key

ONE_TOKEN = SamplingParams(max_new_tokens=1)


@pytest.fixture(scope="module", params=["pad", "anyres"])
def parts(request):
    return tiny_folder.load(request.param)


@pytest.fixture
def named(parts):
    """Five images by content key, of a model that has not seen them."""
    parts[0].feature_cache.clear()
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


def fetch(cache, names):
    """Return which names had to be encoded."""
    made = []

    def encode(missing):
        made.extend(missing)
        return [block() for _ in missing]

    assert set(cache.fetch(names, encode)) == set(names)
    return made


def alone(model, tiles: ImageTiles):
    with paddle.no_grad():
        return model.encode_images(tiles.pixels, [len(tiles.pixels)], [tiles.size])[0].numpy()


def test_least_recently_used_images_are_dropped_beyond_the_limit():
    cache = FeatureCache(max_bytes=3 * 128)
    assert fetch(cache, ["a", "b", "c"]) == ["a", "b", "c"]
    assert fetch(cache, ["a"]) == []  # now b is the oldest
    assert fetch(cache, ["d"]) == ["d"]
    assert "b" not in cache and len(cache) == 3 and cache.num_bytes == 3 * 128
    assert fetch(cache, ["c", "a", "b"]) == ["b"]
    assert "d" not in cache


def test_features_beyond_the_limit_are_returned_but_not_kept():
    cache = FeatureCache(max_bytes=200)
    found = cache.fetch(["a", "b", "a"], lambda names: [block(number) for number, _ in enumerate(names)])
    assert [float(found[name][0, 0]) for name in "ab"] == [0, 1]
    assert len(cache) == 1 and cache.num_bytes == 128
    cache.drop("b")
    cache.drop("absent")
    assert len(cache) == 0 and cache.num_bytes == 0


def test_features_encoded_while_the_cache_is_cleared_are_not_kept():
    cache = FeatureCache()

    def encode(names):
        cache.clear()  # as when training starts in another thread
        return [block() for _ in names]

    assert list(cache.fetch(["a"], encode)) == ["a"]
    assert len(cache) == 0 and cache.num_bytes == 0


def test_many_threads_leave_the_counts_right():
    cache = FeatureCache(max_bytes=5 * 128)
    errors = []

    def work(seed):
        rng = np.random.default_rng(seed)
        try:
            for _ in range(150):
                names = [str(number) for number in rng.integers(0, 9, 3)]
                assert set(cache.fetch(names, lambda missing: [block() for _ in missing])) == set(names)
                cache.drop(str(rng.integers(0, 9)))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and len(cache) <= 5 and cache.num_bytes == len(cache) * 128


def test_copies_and_pickles_are_empty():
    cache = FeatureCache(max_bytes=999)
    fetch(cache, ["a"])
    for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert len(other) == 0 and other.max_bytes == 999


def test_features_equal_those_of_each_image_alone_and_are_encoded_once(parts, named, seen):
    model = parts[0]
    found = encode_missing(model, named, model.feature_cache)
    num_tiles = sum(len(tiles.pixels) for tiles in named.values())
    assert sum(seen) == num_tiles
    assert encode_missing(model, named, model.feature_cache).keys() == found.keys() and sum(seen) == num_tiles
    for name, tiles in named.items():
        np.testing.assert_allclose(found[name].numpy(), alone(model, tiles), atol=1e-5)
    assert model.feature_cache.num_bytes == sum(tiles.num_tokens for tiles in named.values()) * 48 * 4


def test_the_tower_sees_a_bounded_number_of_tiles_at_once(parts, seen):
    model = parts[0]
    model.feature_cache.clear()
    rng = np.random.default_rng(0)
    one = parts[1].tiles(tiny_folder.random_image(1))
    number = 2 * MAX_TILES // len(one.pixels) + 3
    named = {}
    for _ in range(number):
        tiles = ImageTiles(rng.standard_normal(one.pixels.shape, dtype=np.float32), one.size, one.num_tokens)
        named[content_key(tiles)] = tiles
    found = encode_missing(model, named, model.feature_cache)
    assert max(seen) <= MAX_TILES and sum(seen) == number * len(one.pixels)
    name, tiles = list(named.items())[-1]
    np.testing.assert_allclose(found[name].numpy(), alone(model, tiles), atol=1e-5)


def test_training_makes_features_stale_and_a_model_in_training_mode_keeps_none(parts, named, seen):
    model = parts[0]

    class Wrapper(nn.Layer):
        def __init__(self):
            super().__init__()
            self.model = model

    around = Wrapper()
    for start in (model.train, around.train):
        encode_missing(model, named, model.feature_cache)
        assert len(model.feature_cache) == len(named)
        start()
        assert model.training
        encode_missing(model, named, model.feature_cache)
        assert len(model.feature_cache) == 0
        around.eval()
        assert not model.training
    weight = model.projector.parameters()[0]
    former, before = weight.numpy(), encode_missing(model, named, model.feature_cache)
    around.train()
    weight.set_value(former * 2)
    around.eval()
    after = encode_missing(model, named, model.feature_cache)  # the features of the former weights are not returned
    weight.set_value(former)
    model.feature_cache.clear()
    assert all(np.abs(after[name].numpy() - before[name].numpy()).max() > 1e-3 for name in named)


def test_sessions_and_batches_of_one_model_share_its_features(parts, named, seen):
    model, processor = parts
    image, num_tiles = tiny_folder.random_image(0), len(processor.tiles(tiny_folder.random_image(0)).pixels)
    for question in ("What is this?", "And where?"):
        ChatSession(model, processor, sampling=ONE_TOKEN).ask(question, [image])
    sample = processor.encode(Conversation([Message.typed("What?", 1)], [image]))
    model.generate(processor.collate([sample]), ONE_TOKEN)
    assert sum(seen) == num_tiles


def test_session_of_a_model_without_a_cache_has_its_own_and_drops_it_after_training(parts):
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
            session._cached = []  # so that the image is read again
        session.ask("What is this?", [tiny_folder.random_image(0)])
        assert len(calls) == num_calls
