"""Towers of several kinds in every layout: there and back, read by transformers, left heads and layers, inspection."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil

import numpy as np
import paddle
import pytest
import reference_models as tiny
import tiny_folder
import torch
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch_file
from torch_folders import official_state, write_official, write_torch
from transformers import (
    AutoImageProcessor,
    CLIPVisionModel,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionModel,
)

from paddlemix.checkpoints.compose import Choices, compose
from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.inspection import inspect
from paddlemix.checkpoints.layouts import tower as tower_layout
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.source import read_config
from paddlemix.commands import compose as command
from paddlemix.image.preprocess import preprocess
from paddlemix.models.config import VisionConfig
from paddlemix.models.vision.families import KNOWN_TOWERS
from paddlemix.tensor_files.stored import CheckpointError

TOLERANCE = 1e-4
NUM_HEAD = 11  # tensors of SigLIP's pooling head, which LLaVA does not read
SO400M = "google/siglip-so400m-patch14-384"
VISIONS = {
    "clip-b32": {"image_size": 28, "patch_size": 7},
    "clip-b16": {"image_size": 42, "patch_size": 7, "hidden_act": "gelu"},
    "siglip": {"kind": "siglip", "image_size": 28, "patch_size": 7},
    "siglip-odd-side": {"kind": "siglip", "image_size": 31, "patch_size": 7},
}
CLASSES = {"clip": CLIPVisionModel, "siglip": SiglipVisionModel}


def tower_model(name: str, is_next: bool = False):
    strategy = "full" if name.startswith("siglip") else "default"
    return tiny.hf_model(is_next, strategy=strategy, vision=VISIONS[name], vocab_size=tiny_folder.VOCAB_SIZE)


def with_tokenizer(folder):
    for file in tiny_folder.folder("pad").glob("*token*"):
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module", params=VISIONS)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return tower_model(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model, name):
    """The model in this project's layout."""
    folder = tmp_path_factory.mktemp(name)
    source = with_tokenizer(tiny.save_hf(model, folder / "hf", False))
    if name.startswith("siglip"):
        side = VISIONS[name]["image_size"]
        values = {"image_processor_type": "SiglipImageProcessor", "size": {"height": side, "width": side}}
        (source / "preprocessor_config.json").write_text(json.dumps(values))
    report = convert(source, folder / "ours", "paddle")
    is_siglip = name.startswith("siglip")
    dropped = [one for one in report.dropped if "vision_model.head." in one]
    assert len(dropped) == (NUM_HEAD if is_siglip else 0) == len(report.dropped)
    return folder / "ours"


def logits(path, batch) -> np.ndarray:
    """Return the logits of the words that every layout has."""
    with paddle.no_grad():
        return load_model(path, device="cpu")(batch).numpy()[..., : tiny_folder.VOCAB_SIZE]


def batch_of(config):
    return tiny.make_batch(np.random.default_rng(0), [[3, (60, 40), 6]], config.image)


@pytest.mark.parametrize("layout", ["paddle", "hf", "official", "xtuner", "paddlemix"])
def test_there_and_back_keeps_every_bit_and_the_configuration(tmp_path, folder, name, layout):
    if layout == "paddlemix" and name.startswith("siglip"):
        with pytest.raises(CheckpointError, match="layout paddlemix has no siglip tower"):
            convert(folder, tmp_path / "there", layout)
        return
    convert(folder, tmp_path / "there", layout)
    convert(tmp_path / "there", tmp_path / "back", "paddle")
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) for key in before)
    first, last = read_config(folder), read_config(tmp_path / "back")
    assert dataclasses.replace(last.vision, name=first.vision.name) == first.vision
    assert last.image == first.image
    batch = batch_of(first)
    np.testing.assert_allclose(logits(tmp_path / "there", batch), logits(folder, batch), atol=1e-5)


def test_transformers_reads_our_folder_without_missing_or_extra_tensors(tmp_path, folder, name):
    convert(folder, tmp_path / "hf", "hf")
    theirs, report = LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    config = read_config(folder)
    assert theirs.config.vision_config.model_type == f"{config.vision.family}_vision_model"
    batch = batch_of(config)
    inputs = tiny.hf_inputs(batch, False)
    is_image = inputs["input_ids"] == tiny.IMAGE_TOKEN
    inputs["input_ids"] = torch.where(is_image, theirs.config.image_token_id, inputs["input_ids"])
    with torch.no_grad():
        found = theirs.eval()(**inputs).logits.numpy()[..., : config.language.vocab_size]
    np.testing.assert_allclose(found, logits(folder, batch), atol=TOLERANCE)
    convert(folder, tmp_path / "xtuner", "xtuner")
    tower, report = CLASSES[config.vision.family].from_pretrained(
        tmp_path / "xtuner" / "visual_encoder", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    with torch.no_grad():
        pixels = torch.tensor(batch.pixels)
        states, expected = (
            one(pixels, output_hidden_states=True).hidden_states for one in (tower, theirs.model.vision_tower)
        )
    torch.testing.assert_close(states[-2], expected[-2])


def test_written_image_processor_gives_our_pixels(tmp_path, folder, name):
    convert(folder, tmp_path / "hf", "hf")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "hf", use_fast=False)
    assert type(processor).__name__ == ("SiglipImageProcessor" if name.startswith("siglip") else "CLIPImageProcessor")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    theirs = processor(image, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(preprocess(image, read_config(folder).image).pixels, theirs, atol=1e-5)


@pytest.mark.parametrize("layout", ["hf", "official"])
def test_anyres_over_siglip_goes_there_and_back(tmp_path, layout):
    model = tower_model("siglip-odd-side", is_next=True)
    source = with_tokenizer(tiny.save_hf(model, tmp_path / "source", True))
    convert(source, tmp_path / "there", layout)
    first, last = read_config(source), read_config(tmp_path / "there")
    # LLaVA's own code always crops, and counts rows without rounding first.
    theirs = {"has_crop": last.image.has_crop, "has_rounded_sizes": layout == "hf"}
    assert last.image == dataclasses.replace(first.image, **theirs)
    batch = batch_of(first)
    expected = tiny.hf_logits(model, batch, True)
    np.testing.assert_allclose(logits(tmp_path / "there", batch), expected, atol=TOLERANCE)
    if layout == "hf":
        report = LlavaNextForConditionalGeneration.from_pretrained(tmp_path / "there", output_loading_info=True)[1]
        assert not report["missing_keys"] and not report["unexpected_keys"]


def as_llava_next_writes(model, parent, num_layers: int):
    """Write LLaVA-NeXT's layout: the tower is inside, without the layers and the head that its class removes."""
    model.model.vision_tower.save_pretrained(parent / "siglip")
    folder = write_official(parent / "model", model, str(parent / "siglip"), kind="safetensors", has_tower=True)
    start = "model.vision_tower.vision_tower.vision_model."
    state = {
        key: tensor
        for key, tensor in official_state(model).items()
        if not key.startswith((f"{start}head.", *(f"{start}encoder.layers.{n}." for n in range(num_layers, 9))))
    }
    write_torch(folder, state, "safetensors")
    return folder


@pytest.mark.parametrize("num_layers", [2, 3], ids=["last-layer-removed", "whole-tower"])
@pytest.mark.parametrize("stated", [-2, -1])
def test_llava_next_takes_the_penultimate_state_of_siglip_for_any_config(tmp_path, num_layers, stated):
    model = tower_model("siglip-odd-side")
    folder = as_llava_next_writes(model, tmp_path, num_layers)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "mm_vision_select_layer": stated}))
    config = read_config(folder)
    expected = {2: (2, -1), 3: (3, -2)}[num_layers]
    assert (config.vision.num_hidden_layers, config.vision.select_layer) == expected
    batch = batch_of(config)
    np.testing.assert_allclose(logits(folder, batch), tiny.hf_logits(model, batch, False), atol=TOLERANCE)


def test_tower_without_its_last_layer_is_used_whole_in_transformers_and_refused_where_a_layer_would_go(tmp_path):
    model = tower_model("siglip-odd-side")
    source = with_tokenizer(as_llava_next_writes(model, tmp_path, 2))
    convert(source, tmp_path / "hf", "hf")
    theirs = LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf")
    assert (theirs.config.vision_feature_layer, theirs.config.vision_feature_select_strategy) == (-1, "full")
    with pytest.raises(CheckpointError, match="official cannot hold a siglip tower of 2 layers of which 2 are used"):
        convert(tmp_path / "hf", tmp_path / "official", "official")
    composed = compose(tmp_path / "hf", tmp_path / "hf", tmp_path / "composed", Choices())
    assert (composed.vision.num_hidden_layers, composed.vision.select_layer) == (2, -1)


def test_shape_of_a_known_tower_has_its_name_with_and_without_the_last_layer():
    whole = VisionConfig(**KNOWN_TOWERS[SO400M])
    assert tower_layout.known_name(whole) == SO400M
    assert tower_layout.known_name(dataclasses.replace(whole, num_hidden_layers=26, select_layer=-1)) == SO400M
    for changes in ({"num_hidden_layers": 25}, {"image_size": 448}, {"hidden_act": "gelu"}):
        assert tower_layout.known_name(dataclasses.replace(whole, name=SO400M, **changes)) == ""
    clip = VisionConfig(**KNOWN_TOWERS["openai/clip-vit-base-patch16"])
    assert tower_layout.known_name(clip) == "openai/clip-vit-base-patch16"
    assert tower_layout.known_name(dataclasses.replace(clip, num_hidden_layers=11)) == ""


def test_stage_1_folder_that_only_names_a_known_siglip_has_its_shape_and_its_pixels(tmp_path):
    model = tower_model("siglip")
    folder = write_official(tmp_path / "model", model, SO400M, mm_hidden_size=1152)
    config = read_config(folder)
    assert config.vision == VisionConfig(**KNOWN_TOWERS[SO400M], name=SO400M)
    assert (config.image.mean, config.image.std, config.image.has_crop) == ((0.5,) * 3, (0.5,) * 3, False)
    assert (config.vision.select_layer, config.image.patches_per_side) == (-2, 27)


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """Folders of a SigLIP tower with its head, and of a whole SigLIP model that contains the same tower."""
    folder = tmp_path_factory.mktemp("towers")
    torch.manual_seed(3)
    vision = tiny.vision_config(**VISIONS["siglip-odd-side"])
    tower = SiglipVisionModel(vision)
    text = SiglipTextConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1)
    whole = SiglipModel(SiglipConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))
    whole.vision_model.load_state_dict(tower.vision_model.state_dict())
    tower.save_pretrained(folder / "tower")
    whole.save_pretrained(folder / "whole")
    return tower.eval(), folder


@pytest.mark.parametrize("kind", ["tower", "whole"])
def test_siglip_is_composed_and_gives_the_features_of_transformers(tmp_path, towers, kind):
    tower, folder = towers
    config = compose(tiny_folder.folder("pad"), folder / kind, tmp_path / "out", Choices(mode="square"))
    assert (config.vision.family, config.vision.select_layer, config.image.side) == ("siglip", -2, 31)
    assert (config.image.mean, config.image.std, config.image.has_crop) == ((0.5,) * 3, (0.5,) * 3, False)
    pixels = np.random.default_rng(0).standard_normal((2, 3, 31, 31)).astype(np.float32)
    with torch.no_grad():
        expected = tower(torch.tensor(pixels), output_hidden_states=True).hidden_states[-2].numpy()
    with paddle.no_grad():
        found = load_model(tmp_path / "out", device="cpu").vision_tower(paddle.to_tensor(pixels)).numpy()
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_interpolated_tower_loses_its_name_and_is_written_beside_the_official_model(tmp_path, towers):
    compose(tiny_folder.folder("pad"), towers[1] / "tower", tmp_path / "out", Choices(image_size=49))
    convert(tmp_path / "out", tmp_path / "official", "official")
    values = json.loads((tmp_path / "official" / "config.json").read_text())
    assert values["mm_vision_tower"] == "siglip_vision_tower"  # LLaVA-NeXT recognizes its kind by "siglip" in it
    config = read_config(tmp_path / "official")
    assert (config.vision.image_size, config.image.patches_per_side) == (49, 7)


def test_inspect_names_the_kind_of_a_tower_alone_and_in_a_model(folder, name, towers):
    found = inspect(folder)
    title = "SigLIP" if name.startswith("siglip") else "CLIP"
    assert found.model.startswith(f"{title} 3 x 32 ({VISIONS[name]['image_size']} px, patches of 7)")
    assert not found.problems
    assert inspect(towers[1] / "tower").format == "a SigLIP vision tower, a part of a LLaVA"
    assert inspect(towers[1] / "whole").format == "a SigLIP model, a part of a LLaVA"


def test_projector_over_a_siglip_without_its_last_layer_reads_the_same_features(tmp_path):
    model = tower_model("siglip-odd-side")
    base = as_llava_next_writes(model, tmp_path, 2)
    stage = tmp_path / "stage"
    stage.mkdir()
    state = {key: value for key, value in official_state(model).items() if "mm_projector" in key}
    torch.save(state, stage / "mm_projector.bin")
    shutil.copy(base / "config.json", stage / "config.json")
    config = read_config(stage, base=base)
    assert (config.vision.num_hidden_layers, config.vision.select_layer) == (2, -1)
    assert config.image.has_crop is False


def test_interpolation_keeps_the_dtype_and_rounds_once(tmp_path, towers):
    language = tiny_folder.folder("pad")
    compose(language, towers[1] / "tower", tmp_path / "whole", Choices())
    convert(tmp_path / "whole", tmp_path / "half", "paddle", dtype="bfloat16")
    compose(language, tmp_path / "half", tmp_path / "out", Choices(image_size=49))
    found, half = (
        load_torch_file(tmp_path / place / "model.safetensors")["vision_tower.position_embedding"]
        for place in ("out", "half")
    )
    grid = half.float().reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    wide = torch.nn.functional.interpolate(grid, size=(7, 7), mode="bicubic", align_corners=False)
    expected = wide.permute(0, 2, 3, 1).reshape(49, 32)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=2**-8, atol=1e-6)


def test_command_composes_for_another_side(tmp_path, towers, capsys):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    flags = ["--language-model", str(tiny_folder.folder("pad")), "--vision-tower", str(towers[1] / "whole")]
    flags += ["--output", str(tmp_path / "out"), "--mm-projector-type", "mlp2x_res2x_gelu"]
    with pytest.raises(ValueError, match="--image-size 0 is below 1 px"):
        command.run(parser.parse_args([*flags, "--image-size", "0"]))
    assert command.run(parser.parse_args([*flags, "--image-size", "44"])) == 0
    assert "random values: projector" in capsys.readouterr().out
    config = read_config(tmp_path / "out")
    assert (config.vision.image_size, config.image.side, config.projector_type) == (44, 44, "mlp2x_res2x_gelu")
