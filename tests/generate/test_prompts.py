"""Prompts of several rows read together, their common beginnings once, against each prompt read alone."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import paddle
import pytest
import tiny_folder

from paddlemix import LlavaForConditionalGeneration
from paddlemix.generate.cache_keys import embed_keys, keys_of
from paddlemix.generate.features import FeatureCache, encode_missing
from paddlemix.generate.prompts import PASS_COST, plan, read_prompts
from paddlemix.image.preprocess import content_key
from paddlemix.models.config import RopeScaling
from paddlemix.models.language.families import FAMILIES

# Rows as (number of the image or None, length of the rest), after one system text for all.
SHAPES = {
    "one-image-for-all": [(1, 5), (1, 9), (1, 5), (1, 30)],
    "two-images": [(1, 5), (2, 9), (1, 3), (2, 12), (1, 1)],
    "each-its-own": [(1, 5), (2, 9), (3, 7)],
    "no-image": [(None, 5), (None, 40), (None, 6)],
    "mixed": [(1, 5), (None, 9), (2, 3), (1, 50)],
    "alone": [(1, 4)],
}
SYSTEM = 60
BUDGET = 8
TOLERANCE = 2e-4


@pytest.fixture(scope="module", params=["pad", "anyres"])
def parts(request):
    return tiny_folder.load(request.param)


def make_rows(processor, shape, seed=0):
    """Return rows of keys and the images by name."""
    rng = np.random.default_rng(seed)
    system, tiles = rng.integers(3, 400, SYSTEM).tolist(), {}
    rows = []
    for number, rest in shape:
        ids, named = list(system), []
        if number is not None:
            image = processor.tiles(tiny_folder.random_image(number))
            named = [(content_key(image), image)]
            tiles |= dict(named)
            ids += [-200] * image.num_tokens
        rows.append(keys_of(ids + rng.integers(3, 400, rest).tolist(), named))
    return rows, tiles


def logits_alone(model, row, tiles, more=()):
    """Return the last logits of a row and further tokens, in one pass without a cache.

    Tokens that fill the budget follow: what is read does not see them, but they make the sequence as long as it can be.
    """
    features = {
        name: model.encode_images(each.pixels, [len(each.pixels)], [each.size])[0] for name, each in tiles.items()
    }
    with paddle.no_grad():
        embeds = embed_keys(model, [[*row, *more, *[5] * (BUDGET - len(more))]], features)
        positions = paddle.arange(embeds.shape[1]).unsqueeze(0)
        hidden = model.language_model(embeds, positions)
        return model.language_model.logits(hidden[:, len(row) + len(more) - 1]).numpy()[0]


def count_positions(model, monkeypatch):
    """Note rows times positions of every pass."""
    counts, read = [], model.language_model.forward_cached

    def counting(embeds, *args, **options):
        counts.append(embeds.shape[0] * embeds.shape[1])
        return read(embeds, *args, **options)

    monkeypatch.setattr(model.language_model, "forward_cached", counting)
    return counts


def read(model, rows, tiles, **options):
    return read_prompts(model, rows, encode_missing(model, tiles, FeatureCache()), [BUDGET] * len(rows), **options)


def check(model, rows, tiles, **options):
    """Compare the prompts' logits, and those after two more tokens, with each row alone."""
    engine, logits = read(model, rows, tiles, **options)
    for row, found in zip(rows, logits, strict=True):
        np.testing.assert_allclose(found, logits_alone(model, row, tiles), atol=TOLERANCE)
    lengths = np.array([len(row) for row in rows])
    for step, token in enumerate([7, 11]):
        logits = engine.read_ids([token] * len(rows), (lengths + step)[:, None])
    for row, found in zip(rows, logits, strict=True):
        np.testing.assert_allclose(found, logits_alone(model, row, tiles, [7, 11]), atol=TOLERANCE)
    return engine


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("shares_prefixes", [True, False])
def test_logits_of_every_row_are_those_of_reading_it_alone(shape, shares_prefixes, parts):
    model, processor = parts
    check(model, *make_rows(processor, shape), shares_prefixes=shares_prefixes)


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_prefixes_do_not_change_the_logits_of_any_family(family, parts):
    model, processor = parts
    language = FAMILIES[family].read(tiny_folder.language_json(family, model.config.language.vocab_size))
    if language.positions == "rotary":
        language = dataclasses.replace(language, sliding_window=40, num_full_layers=1)
    other = LlavaForConditionalGeneration(dataclasses.replace(model.config, language=language))
    other.initialize_weights(1, std=tiny_folder.STD)
    other.eval()
    rows, tiles = make_rows(processor, SHAPES["two-images"] * 3)
    assert len(plan(rows)) > 1
    check(other, rows, tiles)


@pytest.mark.parametrize("original", [72, 92, 100])
def test_rows_with_two_rotary_scalings_are_read_and_decoded_as_alone(original, parts):
    model, processor = parts
    scaling = RopeScaling(
        "longrope",
        tiny_folder.CONTEXT / original,
        original_max_position_embeddings=original,
        short_factor=[1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
        long_factor=[1.0, 2.0, 3.0, 5.0, 8.0, 9.0],
    )
    language = dataclasses.replace(model.config.language, rope_scaling=scaling)
    other = LlavaForConditionalGeneration(dataclasses.replace(model.config, language=language))
    other.initialize_weights(1, std=tiny_folder.STD)
    other.eval()
    rows, tiles = make_rows(processor, SHAPES["one-image-for-all"] * 2)
    assert len(plan(rows)) > 1
    engine = check(other, rows, tiles)
    kept, more = [0, 3, 6], [7, 11]
    engine.keep_rows(kept)
    for _ in range(6):
        positions = [[len(rows[row]) + len(more)] for row in kept]
        logits = engine.read_ids([5] * len(kept), np.array(positions))
        more.append(5)
        for row, found in zip(kept, logits, strict=True):
            np.testing.assert_allclose(found, logits_alone(other, rows[row], tiles, more), atol=TOLERANCE)


def test_kept_rows_continue_as_alone(parts):
    model, processor = parts
    rows, tiles = make_rows(processor, SHAPES["mixed"])
    engine = check(model, rows, tiles)
    for kept in ([0, 1, 3], [0, 2]):
        engine.keep_rows(kept)
        rows = [[*rows[row], 7, 11] if len(kept) == 3 else rows[row] for row in kept]
        logits = engine.read_ids([9] * len(kept), np.array([[len(row)] for row in rows]))
        rows = [[*row, 9] for row in rows]
        for row, found in zip(rows, logits, strict=True):
            np.testing.assert_allclose(found, logits_alone(model, row, tiles), atol=TOLERANCE)


def test_shared_prefix_is_read_once(parts, monkeypatch):
    model, processor = parts
    rows, tiles = make_rows(processor, SHAPES["one-image-for-all"] * 2)
    counts = count_positions(model, monkeypatch)
    read(model, rows, tiles, shares_prefixes=False)
    assert counts == [len(rows) * max(map(len, rows))]
    counts.clear()
    read(model, rows, tiles)
    shared = SYSTEM + next(iter(tiles.values())).num_tokens
    assert counts == [shared, len(rows) * 30]


def test_system_text_and_images_are_shared_level_by_level(parts, monkeypatch):
    model, processor = parts
    rows, tiles = make_rows(processor, [(number, 4) for number in (1, 2, 3) for _ in range(6)])
    counts = count_positions(model, monkeypatch)
    read(model, rows, tiles)
    longest = max(each.num_tokens for each in tiles.values())
    expected = {
        "pad": [3 * (SYSTEM + longest), 18 * 4],  # three short images: a pass for the system text does not pay
        "anyres": [SYSTEM, 3 * longest, 18 * 4],
    }
    assert counts in expected.values()
    assert sum(counts) < 18 * max(map(len, rows)) / 3


@pytest.mark.parametrize("seed", range(30))
def test_plan_reads_no_more_than_all_rows_alone_and_ends_with_the_rows(seed):
    rng = np.random.default_rng(seed)
    heads = [[(f"p{number}", place) for place in range(rng.integers(1, 90))] for number in range(3)]
    system = rng.integers(0, 9, rng.integers(0, 60)).tolist()
    rows = [
        system + heads[rng.integers(3)] * int(rng.integers(0, 2)) + rng.integers(0, 9, rng.integers(1, 40)).tolist()
        for _ in range(rng.integers(1, 10))
    ]
    levels = plan(rows)
    assert levels[-1].rows == rows and levels[0].sources == ()
    cost = sum(len(level.rows) * level.num_new + PASS_COST for level in levels)
    assert cost <= len(rows) * max(map(len, rows)) + PASS_COST
    for before, level in itertools.pairwise(levels):
        for row, source in zip(level.rows, level.sources, strict=True):
            start = before.rows[source]
            assert row[: len(start)] == start and len(row) - len(start) <= level.num_new
    assert all(level.num_new > 0 for level in levels)


def test_a_part_of_an_image_can_be_read(parts):
    model, processor = parts
    rows, tiles = make_rows(processor, [(1, 3)])
    whole = {name: model.encode_images(each.pixels, [len(each.pixels)], [each.size])[0] for name, each in tiles.items()}
    embeds = embed_keys(model, rows, whole)
    for start, end in ((0, 62), (63, 70), (SYSTEM, len(rows[0])), (65, len(rows[0]))):
        part = embed_keys(model, [rows[0][start:end]], whole)
        np.testing.assert_array_equal(part, embeds[:, start:end])
