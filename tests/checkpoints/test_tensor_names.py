"""The names that versions of transformers and other tools give to one tensor: all are read, none is guessed."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import reference_models as tiny
import tiny_folder
import torch
from safetensors.torch import load_file, save_file
from torch_folders import (
    ANYRES,
    language_model,
    official_state,
    write_official,
    write_projector,
    write_torch,
    write_tower,
)

from paddlemix.checkpoints.compose import Choices, compose
from paddlemix.checkpoints.layouts.folder import Folder
from paddlemix.checkpoints.layouts.names import decoder_name, tower_name
from paddlemix.checkpoints.layouts.tower import open_tower
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.source import open_source
from paddlemix.tensor_files.stored import CheckpointError

LAYER, HEAD, TOWER = "model.language_model.layers", "lm_head", "model.vision_tower.vision_model"
# What versions write in the place of the three; 4.55 writes the first.
STYLES = {
    "4.40": ("language_model.model.layers", "language_model.lm_head", "vision_tower.vision_model"),
    "5.4": ("model.language_model.model.layers", "language_model.lm_head", "model.vision_tower.vision_model"),
    "5.24": ("language_model.model.layers", "language_model.lm_head", "vision_tower"),
    "in memory": (LAYER, HEAD, "model.vision_tower"),
    "head in the model": (LAYER, "model.language_model.lm_head", "model.vision_tower"),
    "no model": ("language_model.layers", "language_model.lm_head", "vision_tower"),
}


def in_style(name: str, style: str) -> str:
    layer, head, tower = STYLES[style]
    name = name.replace("language_model.model.", "model.language_model.").replace("language_model.lm_head", HEAD)
    name = name if name.startswith(("model.", HEAD)) else f"model.{name}"
    body = layer.removesuffix("layers")
    for old, new in (("model.language_model.", body), (HEAD, head), (TOWER, tower)):
        if name.startswith(old):
            return new + name[len(old) :]
    is_old = style in ("4.40", "5.24", "no model")
    return name.removeprefix("model.") if is_old else name


@pytest.mark.parametrize("style", STYLES)
def test_every_style_loads_to_the_same_logits(v1_6, hf_copy, style):
    stored = load_file(hf_copy / "model.safetensors")
    save_file({in_style(name, style): tensor for name, tensor in stored.items()}, hf_copy / "model.safetensors")
    v1_6.check_folder(hf_copy)


@pytest.mark.parametrize("style", ["5.24", "in memory"])
def test_head_of_siglip_is_left_out_in_every_style(tmp_path, style):
    model = tiny.hf_model(False, strategy="full", vision={"kind": "siglip"})
    folder = tiny.save_hf(model, tmp_path, False)
    stored = load_file(folder / "model.safetensors")
    save_file({in_style(name, style): tensor for name, tensor in stored.items()}, folder / "model.safetensors")
    found = open_source(folder).translation
    assert {name.split("head.")[1] for name in found.dropped} == set(
        model.model.vision_tower.vision_model.head.state_dict()
    )
    values, is_transposed = found.tensors["vision_tower.layers.1.fc2.weight"]
    expected = model.model.vision_tower.vision_model.encoder.layers[1].mlp.fc2.weight.detach().numpy()
    np.testing.assert_array_equal(values.values, expected)
    assert is_transposed


def test_tower_inside_an_official_folder_may_lack_vision_model(v1_6, tmp_path):
    write_tower(tmp_path / "clip", tiny.hf_model(False, seed=1, vision={"num_attention_heads": 1}))  # another one
    folder = write_official(tmp_path / "model", v1_6.model, "clip", has_tower=True, **ANYRES)
    state = {name.replace("vision_model.", ""): tensor for name, tensor in official_state(v1_6.model).items()}
    write_torch(folder, state, "bin")
    v1_6.check_folder(folder)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Separate folders of the decoder and the tower of one model, and the model composed from them."""
    folder = tmp_path_factory.mktemp("parts")
    model = tiny.hf_model(False, vocab_size=tiny_folder.VOCAB_SIZE)
    language_model(model).save_pretrained(folder / "language")
    for file in tiny_folder.folder("pad").glob("*token*"):
        shutil.copy(file, folder / "language")
    write_tower(folder / "tower", model)
    compose(folder / "language", folder / "tower", folder / "whole", Choices())
    return folder


DECODER_STYLES = {
    "llava": lambda name: name.replace("model.", "model.language_model."),
    "llava-5.4": lambda name: f"model.language_model.{name}",
    "llava-4.40": lambda name: f"language_model.{name}",
    "bare": lambda name: name.removeprefix("model."),
}
TOWER_STYLES = {
    "5.24": lambda name: name.removeprefix("vision_model."),
    "llava": lambda name: f"model.vision_tower.{name}",
    "llava-5.24": lambda name: f"vision_tower.{name.removeprefix('vision_model.')}",
    "mixed": lambda name: name.removeprefix("vision_model.") if "layers.1" in name else name,
}


@pytest.mark.parametrize(
    ("part", "style"),
    [*(("language", style) for style in DECODER_STYLES), *(("tower", style) for style in TOWER_STYLES)],
)
def test_parts_are_composed_whatever_their_names_begin_with(parts, tmp_path, part, style):
    rename = DECODER_STYLES[style] if part == "language" else TOWER_STYLES[style]
    folder = shutil.copytree(parts / part, tmp_path / part)
    stored = load_file(folder / "model.safetensors")
    save_file({rename(name): tensor for name, tensor in stored.items()}, folder / "model.safetensors")
    sources = {"language": parts / "language", "tower": parts / "tower", part: folder}
    compose(*sources.values(), tmp_path / "whole", Choices())
    found, expected = (load_file(parent / "whole" / "model.safetensors") for parent in (tmp_path, parts))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_parts_of_an_xtuner_folder_have_other_names_and_stale_indexes(v1_5, tmp_path):
    language_model(v1_5.model).save_pretrained(tmp_path / "llm")
    write_tower(tmp_path / "visual_encoder", v1_5.model)
    write_projector(tmp_path / "projector", v1_5.model)
    for part, rename in (("llm", DECODER_STYLES["llava"]), ("visual_encoder", TOWER_STYLES["5.24"])):
        stored = load_file(tmp_path / part / "model.safetensors")
        save_file({rename(name): tensor for name, tensor in stored.items()}, tmp_path / part / "model.safetensors")
    for part in ("llm", "visual_encoder", "projector"):
        (tmp_path / part / "model.safetensors.index.json").write_text('{"weight_map": {"a": "lost.safetensors"}}')
    v1_5.check_folder(tmp_path)


@pytest.mark.parametrize("part", ["language", "tower"])
def test_the_folder_of_an_unrecognized_tensor_of_a_part_is_named(parts, tmp_path, part):
    folder = shutil.copytree(parts / part, tmp_path / part)
    stored = load_file(folder / "model.safetensors")
    save_file({**stored, "module.layers.0.memory": torch.ones(2)}, folder / "model.safetensors")
    sources = {"language": parts / "language", "tower": parts / "tower", part: folder}
    with pytest.raises(CheckpointError, match=rf"{folder} holds 1 unrecognized tensor: module\.layers"):
        compose(*sources.values(), tmp_path / "whole", Choices())


def test_tower_under_both_names_is_refused(parts, tmp_path):
    folder = shutil.copytree(parts / "tower", tmp_path / "tower")
    stored = load_file(folder / "model.safetensors")
    both = {**stored, **{name.removeprefix("vision_model."): tensor.clone() for name, tensor in stored.items()}}
    save_file(both, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds two tensors for vision_model\.embeddings"):
        open_tower(Folder(folder))


@pytest.mark.parametrize(
    ("rename", "name"),
    [
        (decoder_name, "model.vision_tower.encoder.layers.0.mlp.fc1.weight"),
        (decoder_name, "multi_modal_projector.linear_1.weight"),
        (decoder_name, "module.model.layers.0.mlp.up_proj.weight"),
        (tower_name, "text_model.encoder.layers.0.mlp.fc1.weight"),
        (tower_name, "language_model.model.layers.0.mlp.up_proj.weight"),
    ],
)
def test_names_of_something_else_stay_as_they_are(rename, name):
    assert rename(name) == name


def tied_folder(tmp_path, change):
    """Write a tied model with the tensors that `change` returns for its tensors and the name of its embeddings."""
    model = tiny.hf_model(False, tie_word_embeddings=True)
    folder = tiny.save_hf(model, tmp_path / "tied", False)
    stored = load_file(folder / "model.safetensors")
    embedding = next(name for name in stored if name.endswith("embed_tokens.weight"))
    save_file(change(stored, embedding), folder / "model.safetensors")
    return model, folder


@pytest.mark.parametrize("head", ["lm_head.weight", "language_model.lm_head.weight"])
def test_head_of_a_tied_model_replaces_missing_embeddings(tmp_path, head):
    def change(stored, embedding):
        return {head if name == embedding else name: tensor for name, tensor in stored.items()}

    model, folder = tied_folder(tmp_path, change)
    found = load_model(folder, device="cpu").language_model.embed_tokens.weight.numpy()
    np.testing.assert_array_equal(found, model.model.language_model.embed_tokens.weight.detach().numpy())


def test_head_of_a_tied_model_with_other_values_is_refused(tmp_path):
    _, folder = tied_folder(tmp_path, lambda stored, name: {**stored, "lm_head.weight": stored[name] + 1})
    with pytest.raises(CheckpointError, match=r"tied: lm_head\.weight has other values than the embeddings, though"):
        load_model(folder, device="cpu")
    values = json.loads((folder / "config.json").read_text())
    values["text_config"]["tie_word_embeddings"] = values["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(values))
    assert "language_model.lm_head.weight" in open_source(folder).translation.tensors
