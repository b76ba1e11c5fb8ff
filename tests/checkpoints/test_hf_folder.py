"""Folders of transformers: key styles, shards, and what does not fit."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import reference_models as tiny
from safetensors.numpy import load_file, save_file

from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.source import read_config
from paddlemix.tensor_files.stored import CheckpointError

WEIGHTS = "model.safetensors"
# What each style writes before the parts of the decoder, the head, the tower, the projector and the newline.
OLD = ("language_model.model.", "language_model.lm_head.", "vision_tower.", "multi_modal_projector.", "image_newline")
NEW = ("model.language_model.", "lm_head.", *(f"model.{name}" for name in OLD[2:]))


def rewrite(folder, change) -> None:
    """Replace the weight file by one with the tensors that `change` returns."""
    tensors = change(load_file(folder / WEIGHTS))
    (folder / WEIGHTS).unlink()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def edit_config(folder, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def restyled(tensors: dict, source, target) -> dict:
    out = {}
    for name, tensor in tensors.items():
        found = [(old, new) for old, new in zip(source, target, strict=True) if name.startswith(old)]
        old, new = max(found, key=lambda pair: len(pair[0]))
        out[new + name[len(old) :]] = tensor
    return out


@pytest.mark.parametrize("style", [OLD, NEW], ids=["older", "newer"])
def test_both_key_styles_load_to_the_same_logits(v1_6, hf_copy, style):
    stored = load_file(hf_copy / WEIGHTS)
    source = OLD if any(name.startswith(OLD[0]) for name in stored) else NEW
    rewrite(hf_copy, lambda tensors: restyled(tensors, source, style))
    assert all(name.startswith(style) for name in load_file(hf_copy / WEIGHTS))
    v1_6.check_folder(hf_copy)


def test_sharded_folder_loads_to_the_same_logits(v1_6, tmp_path):
    tiny.save_hf(v1_6.model, tmp_path, True, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    v1_6.check_folder(tmp_path)


@pytest.mark.parametrize("is_next", [False, True])
def test_half_precision_folder_loads_to_the_values_that_it_holds(tmp_path, is_next):
    model = tiny.hf_model(is_next).bfloat16()
    tiny.save_hf(model, tmp_path, is_next)
    assert read_config(tmp_path).dtype == "bfloat16"
    loaded = load_model(tmp_path, device="cpu")
    expected = model.model.language_model.layers[1].mlp.up_proj.weight.detach().float().numpy().T
    np.testing.assert_array_equal(loaded.language_model.layers[1].mlp.up_proj.weight.numpy(), expected)


def test_buffers_and_the_copy_of_tied_embeddings_are_left_out(tmp_path):
    model = tiny.hf_model(False, tie_word_embeddings=True)
    folder = tiny.save_hf(model, tmp_path, False)
    stored = load_file(folder / WEIGHTS)
    embedding = next(tensor for name, tensor in stored.items() if name.endswith("embed_tokens.weight"))
    extra = {
        "language_model.lm_head.weight": embedding.copy(),
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32),
        "vision_tower.vision_model.embeddings.position_ids": np.arange(17)[None],
    }
    rewrite(folder, lambda tensors: {**tensors, **extra})
    batch = tiny.make_batch(np.random.default_rng(0), [[3, (60, 40)]], read_config(folder).image)
    logits = load_model(folder, device="cpu")(batch).numpy()
    np.testing.assert_allclose(logits, tiny.hf_logits(model, batch, False), atol=1e-4)


def only(part: str):
    def drop(tensors):
        return {name: tensor for name, tensor in tensors.items() if part not in name}

    return drop


def test_missing_tensors_are_named(hf_copy):
    rewrite(hf_copy, only("multi_modal_projector.linear_1"))
    with pytest.raises(CheckpointError, match=r"2 tensors missing: projector\.0\.bias, projector\.0\.weight"):
        load_model(hf_copy, device="cpu")


@pytest.mark.parametrize(
    ("part", "text"), [("vision_tower", "the vision tower is missing"), ("image_newline", "missing: image_newline")]
)
def test_missing_components_never_load_silently(hf_copy, part, text):
    rewrite(hf_copy, only(part))
    with pytest.raises(CheckpointError, match=text):
        load_model(hf_copy, device="cpu")


def test_tensors_that_no_rule_knows_are_named(hf_copy):
    rewrite(hf_copy, lambda tensors: {**tensors, "language_model.model.surprise.weight": np.ones(3, np.float32)})
    with pytest.raises(CheckpointError, match=r"1 unrecognized tensor: language_model\.model\.surprise\.weight"):
        load_model(hf_copy, device="cpu")


def test_one_tensor_under_two_names_is_refused(hf_copy):
    def double(tensors):
        source = OLD if any(name.startswith(OLD[0]) for name in tensors) else NEW
        return {**tensors, **restyled(tensors, source, NEW if source == OLD else OLD)}

    rewrite(hf_copy, double)
    with pytest.raises(CheckpointError, match=r"holds two tensors for .*, one of them under the name"):
        load_model(hf_copy, device="cpu")


def test_tensors_of_a_layer_that_config_does_not_have_are_named(hf_copy):
    text = json.loads((hf_copy / "config.json").read_text())["text_config"]
    edit_config(hf_copy, text_config={**text, "num_hidden_layers": 2})
    with pytest.raises(
        CheckpointError, match=r"9 tensors unexpected: language_model\.layers\.2\.input_layernorm\.weight"
    ):
        load_model(hf_copy, device="cpu")


def test_tensors_of_another_shape_are_named_with_both_shapes(hf_copy):
    text = json.loads((hf_copy / "config.json").read_text())["text_config"]
    edit_config(hf_copy, text_config={**text, "intermediate_size": 81})
    with pytest.raises(
        CheckpointError, match=r"9 tensors of another shape: .*down_proj\.weight \(\[80, 48\], expected \[81, 48\]\)"
    ):
        load_model(hf_copy, device="cpu")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"architectures": ["BlipForConditionalGeneration"]}, r"no known layout.*\['BlipForConditionalGeneration'\]"),
        ({"architectures": None}, "no known layout"),
        ({"text_config": {"model_type": "gemma2"}}, "language model of type 'gemma2'"),
        ({"text_config": {"rope_scaling": {"type": "yarn", "factor": 2}}}, "rope_scaling .* is not supported"),
        ({"text_config": {"rope_scaling": {"rope_type": "linear"}}}, "rope_scaling .* has no factor"),
        ({"text_config": {"mlp_bias": True}}, "mlp_bias True: expected .* no biases"),
        ({"text_config": {"hidden_act": "gelu"}}, "hidden_act is 'gelu'"),
        ({"vision_config": {"model_type": "pixtral"}}, "vision tower of type 'pixtral'"),
        ({"vision_feature_layer": [-2, -5]}, "vision_feature_layer .* is a list"),
        ({"vision_feature_layer": -9}, "select_layer -9 does not exist"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act 'relu'"),
        ({"image_grid_pinpoints": [[30, 28]]}, "multiples of the tile side 28"),
        ({"image_grid_pinpoints": []}, "needs at least one grid"),
        ({"image_grid_pinpoints": [28, 56]}, "expected a list of pairs"),
        ({"image_grid_pinpoints": [[28, 56, 28]]}, "expected a list of pairs"),
        ({"vision_config": "clip"}, r"config\.json: vision_config is 'clip', expected an object"),
        ({"text_config": {"hidden_size": None}}, r"text_config in .*hidden_size is None, expected a whole number"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_models_that_are_not_supported_are_refused_with_the_reason(hf_copy, changes, text):
    edit_config(hf_copy, **changes)
    with pytest.raises(ValueError, match=text):
        load_model(hf_copy, device="cpu")


def test_missing_folder_names_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"nowhere does not exist \(looked for /.*nowhere\)"):
        load_model("./nowhere", device="cpu")
    with pytest.raises(CheckpointError, match=r"/nowhere does not exist: give the path"):
        load_model(tmp_path / "nowhere", device="cpu")


def test_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a file, not a model folder"):
        load_model(tmp_path / "model.safetensors", device="cpu")


def test_missing_config_is_named(hf_copy):
    (hf_copy / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load_model(hf_copy, device="cpu")


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", "\ufeff{}", "[" * 100_000], ids=range(6))
def test_config_that_is_no_json_object_is_refused(hf_copy, text):
    (hf_copy / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model(hf_copy, device="cpu")


@pytest.mark.parametrize("name", ["my-lora", "clip", "llava-v1.6-mistral"])
def test_name_of_a_folder_is_ignored(v1_6, hf_copy, tmp_path, name):
    shutil.move(hf_copy, tmp_path / name)
    assert read_config(tmp_path / name) == read_config(v1_6.folder)


def test_end_ids_come_from_generation_config_then_config(hf_copy):
    path = hf_copy / "generation_config.json"
    for value, expected in ((7, (7,)), ([7, 8], (7, 8))):
        path.write_text(json.dumps({"eos_token_id": value}))
        assert read_config(hf_copy).eos_token_ids == expected
    path.unlink()
    assert read_config(hf_copy).eos_token_ids == (2,)  # LLaMA's own
    text = json.loads((hf_copy / "config.json").read_text())["text_config"]
    edit_config(hf_copy, text_config={**text, "eos_token_id": [5, 6]})
    assert read_config(hf_copy).eos_token_ids == (5, 6)
