"""Logits against transformers on the same weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import paddle
import pytest
import reference_models as tiny
import torch

from paddlemix import LlavaForConditionalGeneration
from paddlemix.image.anyres import num_image_tokens

TOLERANCE = 1e-4
MIRRORED = [[width, height] for height, width in tiny.PINPOINTS]
# (width, height); a tie is a size for which two canvases are equally good.
UNTIED_SIZES = [
    *[(56, 28), (28, 56), (57, 28), (28, 57), (84, 28), (28, 84), (85, 28), (56, 57), (640, 480), (480, 640)],
    *[(427, 640), (333, 500), (1024, 768), (1920, 1080), (1080, 1920), (2000, 500), (500, 2000), (300, 299), (31, 30)],
    *[(100, 37), (37, 100), (253, 84), (84, 252), (999, 100), (123, 1000), (1000, 400), (41, 90), (700, 701), (60, 40)],
    *[(672, 336), (336, 672), (1344, 1344), (29, 29), (51, 170), (1000, 27), (500, 250), (1000, 13)],
]
TIED_SIZES = [(1, 1), (2, 1), (1, 2), (10, 10), (28, 28), (27, 28), (20, 11), (3, 28)]
EMPTY_SIZES = [(5000, 1), (2000, 2)]  # so flat that no row of the canvas is theirs: only the overview is left


def our_logits(model, batch) -> np.ndarray:
    with paddle.no_grad():
        return model(batch).numpy()


def largest_difference(ours: np.ndarray, theirs: np.ndarray, batch) -> float:
    """Compare where there is no padding; the reference must not be flat."""
    is_real = batch.segment_ids > 0
    assert theirs[is_real].std() > 0.1
    return float(np.abs(ours - theirs)[is_real].max())


def assert_equal_logits(pair, rows, seed: int = 0) -> None:
    batch = tiny.make_batch(np.random.default_rng(seed), rows, pair.spec)
    theirs = tiny.hf_logits(pair.theirs, batch, pair.is_next)
    assert largest_difference(our_logits(pair.ours, batch), theirs, batch) < TOLERANCE


@pytest.mark.parametrize(
    "rows",
    [
        [[4, (60, 40), 7]],
        [[(60, 40)]],
        [[3, (60, 40), 2, (30, 90), (20, 170), 5]],
        [[12, (60, 40), 6], [2, (60, 100), 1]],
        [[3, (60, 40), 6], [9], [(30, 90), 4, (85, 28), 3]],
        [[40]],
        [[5], [17]],
    ],
    ids=["one", "only-an-image", "several", "two-lengths", "mixed", "no-image", "no-image-two-lengths"],
)
def test_logits_equal_transformers(pair, rows):
    assert_equal_logits(pair, rows)


@pytest.fixture(scope="module")
def next_pair(make_pair):
    return make_pair(True)


@pytest.mark.parametrize("size", UNTIED_SIZES, ids=str)
def test_every_image_size_gives_transformers_logits(next_pair, size):
    assert not is_tie(size)
    assert_equal_logits(next_pair, [[3, size, 4]])


@pytest.mark.parametrize("size", EMPTY_SIZES, ids=str)
def test_images_without_rows_give_transformers_logits(next_pair, size):
    assert num_image_tokens(size, next_pair.spec) == (tiny.SIDE // tiny.PATCH) ** 2
    assert_equal_logits(next_pair, [[3, size, 4]])


@pytest.mark.parametrize("size", TIED_SIZES, ids=str)
def test_ties_differ_from_transformers_in_the_order_of_canvases_only(next_pair, size):
    # LLaVA's list is in (width, height). transformers took its numbers over as (height, width), so that of two equally
    # good canvases it takes the other one; with mirrored numbers it takes LLaVA's, and the logits are ours.
    assert is_tie(size)
    batch = tiny.make_batch(np.random.default_rng(0), [[3, size, 4]], next_pair.spec)
    ours = our_logits(next_pair.ours, batch)
    config = next_pair.theirs.config
    config.image_grid_pinpoints = MIRRORED
    try:
        theirs = tiny.hf_logits(next_pair.theirs, batch, True)
    finally:
        config.image_grid_pinpoints = tiny.PINPOINTS
    assert largest_difference(ours, theirs, batch) < TOLERANCE
    unmirrored = logits_or_none(next_pair.theirs, batch)
    assert unmirrored is None or largest_difference(ours, unmirrored, batch) > 100 * TOLERANCE


def logits_or_none(model, batch):
    """Return transformers' logits, or None where its canvas wants another number of features or tiles."""
    try:
        return tiny.hf_logits(model, batch, True)
    except (ValueError, RuntimeError):
        return None


def is_tie(size: tuple[int, int]) -> bool:
    """Return whether two canvases keep as many pixels of an image and waste as few."""
    merits = []
    for height, width in tiny.PINPOINTS:
        scale = min(width / size[0], height / size[1])
        kept = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        merits.append((-kept, width * height - kept))
    return merits.count(min(merits)) > 1


def test_mirrored_ties_hold_for_several_images_in_one_batch(next_pair):
    assert_equal_logits(next_pair, [[2, (640, 480), (28, 84), 3], [(300, 299), 9]])


def test_pinpoints_that_are_not_symmetric_are_read_as_height_and_width(tmp_path):
    model = tiny.hf_model(True)
    model.config.image_grid_pinpoints = [[28, 56], [56, 56], [28, 84]]  # one row of two, two by two, a row of three
    folder = tiny.save_hf(model, tmp_path, True)
    ours = LlavaForConditionalGeneration.from_pretrained(folder, device="cpu")
    for size in [(100, 30), (90, 100), (300, 60)]:
        batch = tiny.make_batch(np.random.default_rng(0), [[3, size, 4]], ours.config.image)
        theirs = tiny.hf_logits(model, batch, True)
        assert largest_difference(our_logits(ours, batch), theirs, batch) < TOLERANCE


@pytest.mark.parametrize(
    "changes",
    [
        {"num_key_value_heads": 6},
        {"num_key_value_heads": 1},
        {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 20},
        {"tie_word_embeddings": True},
        {"rms_norm_eps": 0.1, "rope_theta": 70.0},
        {"strategy": "full"},
        {"vision": {"hidden_act": "gelu", "layer_norm_eps": 1e-3}},
    ],
    ids=lambda changes: "-".join(map(str, changes)),
)
def test_other_shapes_give_transformers_logits(make_pair, changes):
    assert_equal_logits(make_pair(False, **changes), [[3, (60, 40), 6], [5, (20, 40), 1, (1, 1), 1]])


@pytest.mark.parametrize("layer", tiny.FEATURE_LAYERS)
def test_other_feature_layers_give_transformers_logits(tmp_path, layer):
    model = tiny.hf_model(False)
    model.config.vision_feature_layer = layer
    ours = LlavaForConditionalGeneration.from_pretrained(tiny.save_hf(model, tmp_path, False), device="cpu")
    batch = tiny.make_batch(np.random.default_rng(0), [[3, (60, 40), 4]], ours.config.image)
    theirs = tiny.hf_logits(model, batch, False)
    assert largest_difference(our_logits(ours, batch), theirs, batch) < TOLERANCE


@pytest.mark.parametrize("length", [257, 530])
def test_prompts_longer_than_an_attention_block_give_transformers_logits(make_pair, length):
    pair = make_pair(False, max_position_embeddings=1024)
    assert_equal_logits(pair, [[length - 40, (60, 40), 23], [60]])


PROJECTORS = {
    "linear": lambda: torch.nn.Linear(32, 48),
    "mlp1x_gelu": lambda: torch.nn.Sequential(torch.nn.Linear(32, 48)),
    "mlp3x_gelu": lambda: torch.nn.Sequential(
        torch.nn.Linear(32, 48), torch.nn.GELU(), torch.nn.Linear(48, 48), torch.nn.GELU(), torch.nn.Linear(48, 48)
    ),
    "identity": torch.nn.Identity,
}


@pytest.mark.parametrize("projector_type", PROJECTORS)
def test_projectors_equal_their_restatement_in_torch(tmp_path, projector_type):
    same_width = {"hidden_size": 32, "num_attention_heads": 4} if projector_type == "identity" else {}
    model = tiny.hf_model(False, vision={"num_attention_heads": 1}, **same_width)
    model.model.multi_modal_projector = PROJECTORS[projector_type]()
    tiny.write_paddlemix_json(tmp_path, tiny.paddlemix_config(model, mm_projector_type=projector_type))
    paddle.save(tiny.paddlemix_state(model), str(tmp_path / "model_state.pdparams"))
    ours = LlavaForConditionalGeneration.from_pretrained(tmp_path, device="cpu")
    batch = tiny.make_batch(np.random.default_rng(0), [[3, (60, 40), 4]], ours.config.image)
    theirs = tiny.hf_logits(model, batch, False)
    assert largest_difference(our_logits(ours, batch), theirs, batch) < TOLERANCE


def test_sizes_that_floating_point_puts_just_below_a_whole_number_count_as_in_transformers(make_pair):
    # 47 * (12 / 188) is 2.9999999999999996, of which transformers makes 3 and LLaVA's own code 2.
    pair = make_pair(True)
    size = (47, 188)
    ours, llavas = (
        num_image_tokens(size, dataclasses.replace(pair.spec, has_rounded_sizes=one)) for one in (True, False)
    )
    assert ours != llavas and num_image_tokens(size, pair.spec) == ours
    assert_equal_logits(pair, [[3, size, 5]])
