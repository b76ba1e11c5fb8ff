"""LLaVAs over CLIP and SigLIP towers against transformers: logits, ids, gradients, AnyRes, interpolated sides."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
import reference_models as tiny
import tiny_folder
import torch
from cached_reader import CachedReader
from transformers import SiglipVisionConfig

from paddlemix.checkpoints.compose import Choices, compose
from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.layouts import hf
from paddlemix.checkpoints.layouts.positions import bicubic_matrix
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.source import read_config
from paddlemix.constants import IMAGE_TOKEN_ID
from paddlemix.data.sample import Batch
from paddlemix.generate.sampling import SamplingParams
from paddlemix.image.anyres import num_image_tokens
from paddlemix.image.spec import ANYRES_GRIDS, ImageSpec
from paddlemix.models.vision.families import KNOWN_TOWERS, SIGLIP, TOWER_FAMILIES
from paddlemix.tensor_files.stored import CheckpointError
from paddlemix.train.freeze import freeze

TOLERANCE = 1e-4
NUM_NEW = 16
GREEDY = SamplingParams(max_new_tokens=NUM_NEW, ignore_eos=True)
SIGLIP_TINY = {"kind": "siglip", "image_size": 28, "patch_size": 7}
ODD = {"kind": "siglip", "image_size": 31, "patch_size": 7}  # four patches a side, three pixels are left
# The numbers of patches are those of the real towers, the patches are smaller (27 of 2 px leave one pixel of 55).
TOWERS = {
    "clip-b32-224": {"vision": {"image_size": 56, "patch_size": 8}},
    "clip-b16-224": {"vision": {"image_size": 56, "patch_size": 4}},
    "clip-l14-224": {"vision": {"image_size": 64, "patch_size": 4}},
    "clip-l14-336": {"vision": {"image_size": 48, "patch_size": 2}},
    "clip-laion": {"vision": {"image_size": 56, "patch_size": 8, "hidden_act": "gelu"}},
    "clip-l14-336-cls_patch": {"vision": {"image_size": 48, "patch_size": 2}, "strategy": "full"},
    "clip-b32-224-cls_patch": {"vision": {"image_size": 56, "patch_size": 8}, "strategy": "full"},
    "siglip-b16-224": {"vision": {"kind": "siglip", "image_size": 56, "patch_size": 4}, "strategy": "full"},
    "siglip-so400m-384": {"vision": {"kind": "siglip", "image_size": 55, "patch_size": 2}, "strategy": "full"},
    "siglip-odd-side": {"vision": ODD, "strategy": "full"},
}
NUM_PATCHES = {"b32": 49, "b16": 196, "l14-224": 256, "l14-336": 576, "so400m": 729, "odd": 16, "laion": 49}
CONTEXT = {"max_position_embeddings": 2048}


@pytest.fixture(scope="module", params=TOWERS)
def tower(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def pair(make_pair, tower):
    return make_pair(False, **TOWERS[tower], **CONTEXT)


def batch_of(pair, *rows, seed: int = 4, with_labels: bool = False) -> Batch:
    return tiny.make_batch(np.random.default_rng(seed), rows, pair.spec, with_labels)


def our_logits(model, batch: Batch) -> np.ndarray:
    with paddle.no_grad():
        return model(batch).numpy()


def assert_equal_logits(model, theirs, batch: Batch, is_next: bool = False) -> None:
    """Compare where there is no padding; the reference must not be flat."""
    is_real = batch.segment_ids > 0
    expected = tiny.hf_logits(theirs, batch, is_next)[is_real]
    assert expected.std() > 0.1
    assert np.abs(our_logits(model, batch)[is_real] - expected).max() < TOLERANCE


def test_tower_has_the_number_of_patches_of_its_name(pair, tower):
    expected = next(number for name, number in NUM_PATCHES.items() if name in tower)
    is_whole = "cls_patch" in tower
    assert num_image_tokens((60, 40), pair.spec) == expected + is_whole
    assert pair.ours.config.vision.family == tower.split("-")[0]


def test_logits_equal_transformers(pair):
    assert_equal_logits(pair.ours, pair.theirs, batch_of(pair, [3, (60, 40), 6], [5, (20, 40), 2]))


def test_images_matter_for_the_logits(pair):
    batch = batch_of(pair, [3, (60, 40), 6])
    other = dataclasses.replace(batch, pixels=-batch.pixels)
    assert np.abs(our_logits(pair.ours, other) - our_logits(pair.ours, batch)).max() > 100 * TOLERANCE


def test_greedy_ids_equal_transformers_with_and_without_padding(pair):
    rows = [[4, (60, 40), 9], [2, (30, 90), 3, (20, 20), 1]]
    answers = []
    for seed, row in enumerate(rows):
        batch = batch_of(pair, row, seed=seed)
        with torch.no_grad():
            inputs = tiny.hf_inputs(batch, False)
            whole = pair.theirs.generate(**inputs, max_new_tokens=NUM_NEW, do_sample=False, pad_token_id=0)
        answers.append(whole[0, batch.token_ids.shape[1] :].tolist())
        assert pair.ours.generate(batch, GREEDY) == [answers[-1]]
    assert (
        pair.ours.generate(joined([batch_of(pair, row, seed=seed) for seed, row in enumerate(rows)]), GREEDY) == answers
    )


def joined(batches: list[Batch]) -> Batch:
    """Stack batches of one row, padded on the right."""
    length = max(batch.token_ids.shape[1] for batch in batches)
    rows = {
        name: np.concatenate([pad_to(getattr(batch, name), length) for batch in batches])
        for name in ("token_ids", "segment_ids")
    }
    images = {
        name: np.concatenate([getattr(batch, name) for batch in batches])
        for name in ("pixels", "tiles_per_image", "image_sizes")
    }
    positions = np.tile(np.arange(length), (len(batches), 1))
    return Batch(rows["token_ids"], None, positions, rows["segment_ids"], **images)


def pad_to(values: np.ndarray, length: int) -> np.ndarray:
    return np.pad(values, ((0, 0), (0, length - values.shape[1])))


def test_cached_logits_equal_uncached_ones(pair):
    batch = batch_of(pair, [10, (60, 40), 12])
    whole = our_logits(pair.ours, batch)
    length = whole.shape[1]
    with paddle.no_grad():
        embeds = pair.ours.embed(batch)
    reader, start = CachedReader(pair.ours, 1, length), 0
    for end in (4, length - 9, length - 1, length):
        logits = reader.read(embeds[:, start:end])
        np.testing.assert_allclose(logits, whole[:, end - 1], atol=TOLERANCE)
        start = end


@pytest.mark.parametrize("vision", [SIGLIP_TINY, ODD], ids=["siglip", "siglip-odd-side"])
def test_anyres_over_siglip_gives_transformers_logits(make_pair, vision):
    pair = make_pair(True, strategy="full", vision=vision, **CONTEXT)
    assert pair.spec.mode == "anyres" and pair.spec.grids[0] == (vision["image_size"], 2 * vision["image_size"])
    for size in ((60, 40), (20, 90), (300, 40)):
        batch = batch_of(pair, [4, size, 9])
        assert (batch.token_ids == IMAGE_TOKEN_ID).sum() == num_image_tokens(size, pair.spec)
        assert_equal_logits(pair.ours, pair.theirs, batch, True)


def test_a_tile_of_siglip_at_384_px_has_27_by_27_patches():
    grids = tuple((width // 336 * 384, height // 336 * 384) for width, height in ANYRES_GRIDS)
    spec = ImageSpec(side=384, patch_size=14, mode="anyres", grids=grids, merge="spatial_unpad", has_crop=False)
    assert spec.patches_per_side == 27
    # A square of 2x2 tiles loses nothing: 54 rows of 54 patches and a newline, and the overview.
    assert num_image_tokens((1000, 1000), spec) == 27 * 27 + 54 * (54 + 1)
    assert num_image_tokens((1000, 1000), dataclasses.replace(spec, mode="pad", grids=(), merge="flat")) == 729


@pytest.mark.parametrize("layer", [layer for layer in (-1, 0, 2) if layer in tiny.FEATURE_LAYERS])
def test_other_feature_layers_of_siglip_give_transformers_logits(tmp_path, layer):
    model = tiny.hf_model(False, strategy="full", vision=ODD)
    model.config.vision_feature_layer = layer
    ours = load_model(tiny.save_hf(model, tmp_path, False), device="cpu")
    batch = tiny.make_batch(np.random.default_rng(0), [[3, (60, 40), 4]], ours.config.image)
    assert_equal_logits(ours, model, batch)


def test_default_strategy_which_would_lose_a_patch_of_siglip_is_refused(tmp_path):
    model = tiny.hf_model(False, strategy="default", vision=SIGLIP_TINY)
    with pytest.raises(CheckpointError, match="'default' leaves out the class token, but a siglip tower has none"):
        read_config(tiny.save_hf(model, tmp_path, False))


def test_unfrozen_siglip_gets_transformers_gradients_in_the_layers_that_are_used(make_pair):
    pair = make_pair(False, strategy="full", vision=ODD)
    freeze(pair.ours, is_tower_trained=True)
    batch = batch_of(pair, [3, (60, 40), 6, (20, 90), 5], [4, (30, 30), 8], with_labels=True)
    loss = pair.ours.loss(batch)
    loss.backward()
    expected = pair.theirs(**tiny.hf_inputs(batch, False)).loss
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    table, theirs = hf.table(pair.ours.config), {}
    for name, parameter in pair.theirs.named_parameters():
        ours = table.to_ours(hf.canonical(name))
        if ours is not None and parameter.grad is not None:
            theirs[ours[0]] = parameter.grad.numpy().T if ours[1] else parameter.grad.numpy()
    found = {name: value.grad.numpy() for name, value in pair.ours.named_parameters() if value.grad is not None}
    assert {"vision_tower.patch_embedding.bias", "vision_tower.position_embedding"} <= set(found)
    assert set(found) == set(theirs)
    for name, gradient in found.items():
        scale = np.linalg.norm(theirs[name])
        if name.endswith("k_proj.bias"):  # softmax does not feel it: both are noise around zero
            assert np.abs(gradient).max() < 1e-6 and np.abs(theirs[name]).max() < 1e-6
        else:
            assert np.linalg.norm(gradient - theirs[name]) <= 1e-3 * scale, (name, scale)


@pytest.mark.parametrize("name", TOWER_FAMILIES)
def test_absent_keys_have_the_defaults_of_transformers(name):
    theirs = tiny.TOWER_CONFIGS[name]()
    assert TOWER_FAMILIES[name].fields({}) == TOWER_FAMILIES[name].fields(theirs.to_dict())


def test_known_siglip_has_the_shape_that_llava_next_writes_into_its_class():
    expected = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
    )
    assert KNOWN_TOWERS["google/siglip-so400m-patch14-384"] == SIGLIP.fields(expected.to_dict())


@pytest.mark.parametrize(("num_old", "num_new"), [(4, 7), (7, 4), (27, 32), (24, 16), (5, 5), (1, 3), (3, 1)])
def test_bicubic_matrix_is_that_of_torch(num_old, num_new):
    rows = np.random.default_rng(0).standard_normal((num_old, num_old)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.tensor(rows)[None, None], size=(num_new, num_new), mode="bicubic", align_corners=False
    )
    matrix = bicubic_matrix(num_old, num_new)
    np.testing.assert_allclose(matrix @ rows @ matrix.T, theirs[0, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize("side", [42, 44, 21, 63], ids=str)
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_interpolated_tower_gives_the_features_of_transformers(tmp_path, kind, side):
    vision = {"kind": kind, "image_size": 35, "patch_size": 7}
    model = tiny.hf_model(False, vision=vision, strategy="default" if kind == "clip" else "full")
    source = source_folder(tmp_path, model)
    config = compose(source, source, tmp_path / "out", Choices(image_size=side, mode="anyres"))
    assert (config.vision.image_size, config.image.side, config.image.grids[0]) == (side, side, (side, 2 * side))
    ours = load_model(tmp_path / "out", device="cpu").vision_tower
    pixels = np.random.default_rng(0).standard_normal((2, 3, side, side)).astype(np.float32)
    tower = model.model.vision_tower
    with torch.no_grad():
        embeddings = getattr(tower, "vision_model", tower).embeddings  # version 5 has no module in between
        patches = embeddings(torch.tensor(pixels), interpolate_pos_encoding=True)
        rows = embeddings.interpolate_pos_encoding(patches, side, side)[0].numpy()
        states = tower(torch.tensor(pixels), interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
    np.testing.assert_allclose(ours.position_embedding.numpy(), rows, atol=1e-5)
    if kind == "clip":
        first = embeddings.position_embedding.weight[0].detach().numpy()
        np.testing.assert_array_equal(ours.position_embedding.numpy()[0], first)
    expected = states[-2].numpy()
    with paddle.no_grad():
        found = ours(paddle.to_tensor(pixels)).numpy()
    np.testing.assert_allclose(found, expected[:, 1:] if kind == "clip" else expected, atol=TOLERANCE)


def source_folder(folder: Path, model) -> Path:
    """Return a folder of our own with a tokenizer, so that a model can be composed of it."""
    model.resize_token_embeddings(tiny_folder.VOCAB_SIZE)
    convert(tiny.save_hf(model, folder / "hf", False), folder / "source", "paddle")
    for file in tiny_folder.folder("pad").glob("*token*"):
        shutil.copy(file, folder / "source")
    return folder / "source"


def test_side_stays_without_a_request_and_another_one_is_refused_by_name(tmp_path):
    source = source_folder(tmp_path, tiny.hf_model(False, vision={"image_size": 35, "patch_size": 7}))
    config = compose(source, source, tmp_path / "same", Choices(image_size=35))
    assert config.vision.image_size == 35
    with pytest.raises(ValueError, match=r"images of 42 px .* tower for 35 px .*`paddlemix compose --image-size`"):
        dataclasses.replace(config, image=dataclasses.replace(config.image, side=42))
    with pytest.raises(CheckpointError, match="image size 6 px holds no patch of the tower, which has 7 px"):
        compose(source, source, tmp_path / "none", Choices(image_size=6))
    assert not (tmp_path / "none").exists()


def test_siglip_has_no_class_token_to_keep(tmp_path):
    source = source_folder(tmp_path, tiny.hf_model(False, strategy="full", vision=SIGLIP_TINY))
    with pytest.raises(ValueError, match="select_feature 'cls_patch': a siglip tower has no class token"):
        compose(source, source, tmp_path / "out", Choices(select_feature="cls_patch"))
