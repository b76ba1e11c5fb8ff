"""Images of requests: prepared once, kept within a budget, and in one tile where little detail is asked for."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import tiny_folder

from paddlemix import ChatSession, SamplingParams
from paddlemix.conversation.messages import Message
from paddlemix.image.errors import ImageError
from paddlemix.image.preprocess import ImageTiles, overview, preprocess
from paddlemix.serve.model.host import EngineHost
from paddlemix.serve.model.images import TileStore
from paddlemix.serve.protocol import Accepted, Ended, ImageInput, Job
from paddlemix.serve.settings import ModelOptions


def file_of(seed: int) -> bytes:
    output = io.BytesIO()
    tiny_folder.random_image(seed, (90, 30)).save(output, "PNG")
    return output.getvalue()


@pytest.fixture(scope="module")
def parts():
    return tiny_folder.load("anyres")


def test_equal_files_are_prepared_once_and_details_are_kept_apart(parts):
    store = TileStore(parts[1].spec, 10_000)
    first = store.prepare(ImageInput(file_of(1)), "the image")
    assert store.prepare(ImageInput(file_of(1)), "the image") is first
    low = store.prepare(ImageInput(file_of(1), is_low_detail=True), "the image")
    assert low[0] != first[0] and len(store) == 2
    assert first[1].num_tokens == parts[1].tiles(file_of(1)).num_tokens
    assert np.array_equal(first[1].pixels, parts[1].tiles(file_of(1)).pixels)


def test_tiles_beyond_the_budget_are_dropped_with_the_oldest_first(parts):
    num_bytes = preprocess(tiny_folder.random_image(0, (90, 30)), parts[1].spec).pixels.nbytes
    store = TileStore(parts[1].spec, 10_000, max_bytes=2 * num_bytes)
    kept = [store.prepare(ImageInput(file_of(seed)), "the image") for seed in range(3)]
    assert len(store) == 2 and store.num_bytes == 2 * num_bytes
    assert store.prepare(ImageInput(file_of(2)), "the image") is kept[2]
    assert store.prepare(ImageInput(file_of(0)), "the image") is not kept[0]


def test_image_of_too_many_pixels_is_named(parts):
    with pytest.raises(ImageError, match="image 3 of 4 has too many pixels: 90x30, the limit is 100"):
        TileStore(parts[1].spec, 100).prepare(ImageInput(file_of(1)), "image 3 of 4")


@pytest.mark.parametrize("merge", ["spatial_unpad", "spatial", "flat"])
def test_overview_is_the_first_tile_and_the_model_has_as_many_features(parts, merge):
    model, processor = parts
    spec = dataclasses.replace(processor.spec, merge=merge)
    image = tiny_folder.random_image(3, (90, 30))
    tiles = overview(image, spec)
    assert np.array_equal(tiles.pixels, preprocess(image, spec).pixels[:1])
    old, model.config = model.config, dataclasses.replace(model.config, image=spec)
    try:
        features = model.arrange(model.encode_tiles(tiles.pixels), tiles.size)
    finally:
        model.config = old
    assert features.shape[0] == tiles.num_tokens == tiny_folder.PATCHES + (merge == "spatial_unpad")


@pytest.mark.parametrize("mode", ["square", "pad"])
def test_overview_of_a_model_with_one_tile_is_its_only_tile(mode):
    spec = tiny_folder.load("pad")[1].spec
    spec = dataclasses.replace(spec, mode=mode)
    image = tiny_folder.random_image(3, (90, 30))
    low, high = overview(image, spec), preprocess(image, spec)
    assert np.array_equal(low.pixels, high.pixels) and low.num_tokens == high.num_tokens


def test_image_of_low_detail_is_answered_as_its_overview_in_a_chat(parts, monkeypatch):
    model, processor = parts
    image = tiny_folder.random_image(5, (90, 30))
    tiles = overview(image, processor.spec)
    monkeypatch.setattr(processor, "tiles", lambda _: tiles)
    sampling = SamplingParams(max_new_tokens=8)
    wanted = ChatSession(model, processor, sampling=sampling).ask("What is this?", [image])
    monkeypatch.undo()
    output = io.BytesIO()
    image.save(output, "PNG")
    host = EngineHost(ModelOptions(tiny_folder.folder("anyres")))
    try:
        answers = [answer_of(host, output.getvalue(), is_low, sampling) for is_low in (True, False)]
    finally:
        host.close()
    (low, accepted), (_, other) = answers
    assert low == wanted
    assert (accepted.images[0].num_tiles, accepted.images[0].num_tokens) == (1, tiles.num_tokens)
    assert other.images[0].num_tiles > 1


def answer_of(host, data: bytes, is_low: bool, sampling: SamplingParams) -> tuple[str, Accepted]:
    import queue

    events: queue.Queue = queue.Queue()
    question = Message("user", ("", "\nWhat is this?"))
    host.submit(Job(f"low-{is_low}", sampling, (question,), (ImageInput(data, is_low),)), events.put)
    accepted, text = events.get(timeout=30), ""
    while not isinstance(event := events.get(timeout=30), Ended):
        text += event.text
    return text, accepted


def test_tiles_have_the_size_of_the_image(parts):
    assert isinstance(overview(tiny_folder.random_image(1, (40, 30)), parts[1].spec), ImageTiles)
    assert overview(tiny_folder.random_image(1, (40, 30)), parts[1].spec).size == (40, 30)
