"""Generated ids against transformers, and against our own forward pass without a cache."""

from __future__ import annotations

import dataclasses

import numpy as np
import paddle
import pytest
import reference_models as tiny
import torch
from cached_reader import CachedReader
from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from paddlemix import LlavaForConditionalGeneration
from paddlemix.data.sample import Batch
from paddlemix.generate.batch import generate
from paddlemix.generate.sampler import Sampler
from paddlemix.generate.sampling import SamplingParams

NUM_NEW = 32
GREEDY = SamplingParams(max_new_tokens=NUM_NEW, ignore_eos=True)
ROWS = {
    "one-image": [4, (60, 40), 9],
    "two-images": [3, (300, 299), 6, (20, 90), 5],
    "no-image": [17],
    "image-last": [2, (90, 30)],
}


def batch_of(pair, rows, seed: int = 2) -> Batch:
    return tiny.make_batch(np.random.default_rng(seed), rows, pair.spec)


def their_answer(pair, batch: Batch) -> list[int]:
    """Return what transformers generates for a batch of one row."""
    inputs = tiny.hf_inputs(batch, pair.is_next)
    with torch.no_grad():
        out = pair.theirs.generate(**inputs, max_new_tokens=NUM_NEW, do_sample=False, pad_token_id=0)
    return out[0, batch.token_ids.shape[1] :].tolist()


def continued(batch: Batch, token: int) -> Batch:
    """Append a token to the only row."""
    length = batch.token_ids.shape[1]
    values = {"token_ids": token, "position_ids": length, "segment_ids": 1}
    return dataclasses.replace(
        batch, **{name: np.append(getattr(batch, name), [[value]], axis=1) for name, value in values.items()}
    )


def last_logits(model, batch: Batch) -> np.ndarray:
    with paddle.no_grad():
        return model(batch)[:, -1].numpy()


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_greedy_ids_equal_transformers(pair, row):
    batch = batch_of(pair, [row])
    theirs = their_answer(pair, batch)
    assert len(set(theirs)) > 6
    assert pair.ours.generate(batch, GREEDY) == [theirs]


def test_answer_ends_with_the_first_end_token_as_in_transformers(pair, tmp_path):
    batch = batch_of(pair, [ROWS["one-image"]])
    whole = their_answer(pair, batch)
    first = next(place for place in range(2, NUM_NEW) if whole[place] not in whole[:place])
    unused = next(token for token in range(3, 97) if token not in whole)
    model = tiny.hf_model(pair.is_next)
    for end_ids in (whole[first], [unused, whole[first]]):
        model.generation_config.eos_token_id = end_ids
        folder = tiny.save_hf(model, tmp_path / str(end_ids), pair.is_next)
        ours = LlavaForConditionalGeneration.from_pretrained(folder, device="cpu")
        theirs = their_answer(dataclasses.replace(pair, theirs=model), batch)
        assert theirs == whole[: first + 1]
        assert ours.generate(batch, SamplingParams(max_new_tokens=NUM_NEW)) == [theirs]
        assert ours.generate(batch, GREEDY) == [whole]


@pytest.mark.parametrize("sampling", [GREEDY, SamplingParams(temperature=0.9, top_p=0.9, seed=3, max_new_tokens=20)])
def test_batch_of_prompts_equals_one_at_a_time(pair, sampling):
    rows = list(ROWS.values())
    together = batch_of(pair, rows)
    answers = pair.ours.generate(together, sampling)
    lengths = (together.segment_ids > 0).sum(axis=1)
    num_images = [sum(isinstance(part, tuple) for part in row) for row in rows]
    for number, length in enumerate(lengths):
        alone = cut_row(together, number, length, num_images)
        assert pair.ours.generate(alone, sampling) == [answers[number]]


def cut_row(batch: Batch, number: int, length: int, num_images: list[int]) -> Batch:
    """Return one row of a batch, without its padding and with its own images."""
    first = sum(num_images[:number])
    images = slice(first, first + num_images[number])
    counts = batch.tiles_per_image
    tiles = slice(counts[: images.start].sum(), counts[: images.stop].sum())
    names = ("token_ids", "position_ids", "segment_ids")
    return dataclasses.replace(
        batch,
        **{name: getattr(batch, name)[number : number + 1, :length] for name in names},
        pixels=batch.pixels[tiles],
        tiles_per_image=counts[images],
        image_sizes=batch.image_sizes[images],
    )


def test_a_row_that_has_ended_stays_as_it_is_while_others_go_on(pair):
    batch = batch_of(pair, [ROWS["no-image"], ROWS["one-image"]])
    whole = pair.ours.generate(batch, GREEDY)
    end = next(token for token in whole[0] if token not in whole[1])
    config = pair.ours.config
    pair.ours.config = dataclasses.replace(config, eos_token_ids=(end,))
    try:
        answers = pair.ours.generate(batch, SamplingParams(max_new_tokens=NUM_NEW))
    finally:
        pair.ours.config = config
    assert answers == [whole[0][: whole[0].index(end) + 1], whole[1]]


def test_cached_logits_equal_uncached_ones_step_by_step(pair):
    batch = batch_of(pair, [ROWS["two-images"]])
    reader = CachedReader(pair.ours, 1, 256)
    with paddle.no_grad():
        logits = reader.read(pair.ours.embed(batch))
    for _ in range(8):
        np.testing.assert_allclose(logits, last_logits(pair.ours, batch), atol=1e-4)
        token = int(logits.argmax())
        batch = continued(batch, token)
        logits = reader.read_ids([token])


@pytest.mark.parametrize("cuts", [(1, 30), (7, 8, 9), (40,), (5, 39, 41)], ids=str)
def test_prompt_read_in_pieces_gives_the_logits_of_one_forward(pair, cuts):
    batch = batch_of(pair, [[10, (640, 480), 20]])
    with paddle.no_grad():
        embeds = pair.ours.embed(batch)
    reader = CachedReader(pair.ours, 1, 300)
    whole = pair_logits(pair.ours, batch)
    start = 0
    for end in (*cuts, embeds.shape[1]):
        logits = reader.read(embeds[:, start:end])
        np.testing.assert_allclose(logits, whole[:, end - 1], atol=1e-4)
        assert reader.length == end
        start = end


def pair_logits(model, batch: Batch) -> np.ndarray:
    with paddle.no_grad():
        return model(batch).numpy()


def test_trimmed_cache_gives_same_logits(pair):
    batch = batch_of(pair, [[10, (640, 480), 20]])
    with paddle.no_grad():
        embeds = pair.ours.embed(batch)
    length = embeds.shape[1]
    reader = CachedReader(pair.ours, 1, 256)
    expected = reader.read(embeds)
    for kept in (length - 1, 25, 3, 0):
        reader.read_ids([7])
        reader.trim(kept)
        logits = reader.read(embeds[:, kept:])
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_growing_the_cache_keeps_its_values(pair):
    batch = batch_of(pair, [ROWS["one-image"]])
    length = batch.token_ids.shape[1]
    reader = CachedReader(pair.ours, 1, length + 1)
    with paddle.no_grad():
        logits = reader.read(pair.ours.embed(batch))
    token = int(logits.argmax())
    expected = reader.read_ids([token])
    reader.trim(length)
    reader.cache.resize([0], 1000)
    assert reader.cache.capacity >= 1000
    np.testing.assert_allclose(reader.read_ids([token]), expected, atol=1e-5)


def test_generation_continues_across_a_cache_bucket(make_pair):
    pair = make_pair(False, max_position_embeddings=512)
    batch = batch_of(pair, [[245]])
    assert pair.ours.generate(batch, GREEDY) == [their_answer(pair, batch)]


def test_full_context_ends_the_answer_and_a_longer_prompt_is_refused(make_pair):
    pair = make_pair(False, max_position_embeddings=40)
    fits, fills = batch_of(pair, [[29]]), batch_of(pair, [[39]])
    assert len(pair.ours.generate(fits, GREEDY)[0]) == 10
    with pytest.raises(ValueError, match="40 tokens, but the context holds 40"):
        pair.ours.generate(fills, GREEDY)


def test_packed_rows_are_refused(pair):
    batch = batch_of(pair, [[9]])
    batch.segment_ids[0, 5:] = 2
    with pytest.raises(ValueError, match="one sequence a row"):
        generate(pair.ours, batch)


def test_generation_restores_the_training_mode(pair):
    pair.ours.train()
    pair.ours.generate(batch_of(pair, [[5]]), SamplingParams(max_new_tokens=2))
    assert pair.ours.training
    pair.ours.eval()


def test_top_k_1_is_greedy(pair):
    batch = batch_of(pair, [ROWS["one-image"]])
    sampling = SamplingParams(temperature=1.5, top_k=1, max_new_tokens=NUM_NEW, ignore_eos=True)
    assert pair.ours.generate(batch, sampling) == pair.ours.generate(batch, GREEDY)


def test_same_seed_gives_the_same_ids_and_another_seed_others(pair):
    batch = batch_of(pair, [ROWS["one-image"]])
    first, second, other = (
        pair.ours.generate(batch, SamplingParams(temperature=1.0, seed=seed, max_new_tokens=20, ignore_eos=True))
        for seed in (1, 1, 2)
    )
    assert first == second != other


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.4},
        {"temperature": 1.0, "top_k": 4},
        {"temperature": 1.0, "top_p": 0.7},
        {"temperature": 1.7, "top_k": 6, "top_p": 0.8},
        {"temperature": 1.0, "top_p": 1e-6},
        {"temperature": 1.0, "top_k": 1000},
    ],
    ids=str,
)
def test_draws_follow_transformers_distribution(options):
    logits = np.random.default_rng(0).normal(0, 1.5, 12).astype(np.float32)
    sampler = Sampler(SamplingParams(seed=0, **options))
    num_draws = 4000
    found = np.bincount([sampler(logits) for _ in range(num_draws)], minlength=12) / num_draws
    expected = their_distribution(logits, options)
    assert ((found > 0) <= (expected > 0)).all()
    assert (np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / num_draws)).all()


def their_distribution(logits: np.ndarray, options: dict) -> np.ndarray:
    scores = torch.tensor(logits)[None]
    scores = TemperatureLogitsWarper(options["temperature"])(None, scores)
    if "top_k" in options:
        scores = TopKLogitsWarper(options["top_k"])(None, scores)
    if "top_p" in options:
        scores = TopPLogitsWarper(options["top_p"])(None, scores)
    return scores.softmax(-1)[0].double().numpy()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"max_new_tokens": 0},
    ],
    ids=str,
)
def test_bad_sampling_params_raise_with_name_and_value(options):
    (name, value) = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        SamplingParams(**options)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_raise(value):
    with pytest.raises(FloatingPointError, match="not finite"):
        Sampler(SamplingParams())(np.array([0.0, value, 1.0], np.float32))
