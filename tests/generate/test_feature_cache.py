"""What is kept of pictures, and when it is forgotten."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import paddle
import pytest
import tiny_folder
from paddle import nn

from paddlemix.generate.features import MAX_TILES, features_of
from paddlemix.image.tiles import ImageTiles, content_key
from paddlemix.models.feature_cache import FeatureCache


@pytest.fixture(scope="module", params=["pad", "anyres"])
def parts(request):
    return tiny_folder.load(request.param)


@pytest.fixture
def named(parts):
    """Five pictures by content key, of a model that has not seen them."""
    parts[0].feature_cache.clear()
    tiles = [parts[1].tiles(tiny_folder.picture(seed)) for seed in range(5)]
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


def test_pictures_used_longest_ago_leave_when_there_are_too_many_bytes():
    cache = FeatureCache(max_bytes=3 * 128)
    assert fetch(cache, ["a", "b", "c"]) == ["a", "b", "c"]
    assert fetch(cache, ["a"]) == []  # now b is the oldest
    assert fetch(cache, ["d"]) == ["d"]
    assert "b" not in cache and len(cache) == 3 and cache.num_bytes == 3 * 128
    assert fetch(cache, ["c", "a", "b"]) == ["b"]
    assert "d" not in cache


def test_more_than_fits_is_returned_all_the_same():
    cache = FeatureCache(max_bytes=200)
    found = cache.fetch(["a", "b", "a"], lambda names: [block(number) for number, _ in enumerate(names)])
    assert [float(found[name][0, 0]) for name in "ab"] == [0, 1]
    assert len(cache) == 1 and cache.num_bytes == 128
    cache.drop("b")
    cache.drop("absent")
    assert len(cache) == 0 and cache.num_bytes == 0


def test_what_was_encoded_before_clearing_is_not_kept_after_it():
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


def test_features_equal_those_of_each_picture_alone_and_are_encoded_once(parts, named, seen):
    model = parts[0]
    found = features_of(model, named)
    num_tiles = sum(len(tiles.pixels) for tiles in named.values())
    assert sum(seen) == num_tiles
    assert features_of(model, named).keys() == found.keys() and sum(seen) == num_tiles
    for name, tiles in named.items():
        np.testing.assert_allclose(found[name].numpy(), alone(model, tiles), atol=1e-5)
    assert model.feature_cache.num_bytes == sum(tiles.num_tokens for tiles in named.values()) * 48 * 4


def test_the_tower_sees_a_bounded_number_of_tiles_at_once(parts, seen):
    model = parts[0]
    model.feature_cache.clear()
    rng = np.random.default_rng(0)
    one = parts[1].tiles(tiny_folder.picture(1))
    number = 2 * MAX_TILES // len(one.pixels) + 3
    named = {}
    for _ in range(number):
        tiles = ImageTiles(rng.standard_normal(one.pixels.shape, dtype=np.float32), one.size, one.num_tokens)
        named[content_key(tiles)] = tiles
    found = features_of(model, named)
    assert max(seen) <= MAX_TILES and sum(seen) == number * len(one.pixels)
    name, tiles = list(named.items())[-1]
    np.testing.assert_allclose(found[name].numpy(), alone(model, tiles), atol=1e-5)


def test_training_forgets_and_a_model_in_training_mode_keeps_nothing(parts, named, seen):
    model = parts[0]

    class Wrapper(nn.Layer):
        def __init__(self):
            super().__init__()
            self.model = model

    around = Wrapper()
    for start in (model.train, around.train):
        features_of(model, named)
        assert len(model.feature_cache) == len(named)
        start()
        assert model.training and len(model.feature_cache) == 0
        features_of(model, named)
        assert len(model.feature_cache) == 0
        around.eval()
        assert not model.training
    weight = model.projector.parameters()[0]
    former, before = weight.numpy(), features_of(model, named)
    around.train()
    weight.set_value(former * 2)
    around.eval()
    after = features_of(model, named)
    weight.set_value(former)
    model.feature_cache.clear()
    assert all(np.abs(after[name].numpy() - before[name].numpy()).max() > 1e-3 for name in named)
