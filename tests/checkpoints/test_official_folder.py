"""Folders of LLaVA's own code have the logits of the model that they were made from, wherever the tower is."""

from __future__ import annotations

import json
import shutil

import numpy as np
import paddle
import pytest
import reference_models as tiny
import tiny_folder
import torch
from safetensors.torch import load_file
from torch_folders import ANYRES, PIXELS, official_name, official_state, write_official, write_torch, write_tower
from transformers import CLIPConfig, CLIPModel, CLIPVisionModel, LlamaTokenizer

from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.processor import LlavaProcessor
from paddlemix.checkpoints.source import read_config
from paddlemix.tensor_files.stored import CheckpointError

KINDS = ["bin", "sharded-bin", "safetensors", "sharded-safetensors"]
CLIP = "clip-vit-tiny"


@pytest.mark.parametrize("kind", KINDS)
def test_v1_5_folder_with_its_tower_beside_it_gives_the_reference_logits(v1_5, tmp_path, kind):
    write_tower(tmp_path / CLIP, v1_5.model)
    v1_5.check_folder(write_official(tmp_path / "model", v1_5.model, f"openai/{CLIP}", kind))


@pytest.mark.parametrize("kind", KINDS)
def test_v1_6_folder_with_the_tower_inside_gives_the_reference_logits(v1_6, tmp_path, kind):
    write_tower(tmp_path / CLIP, tiny.hf_model(False, seed=1, vision={"num_attention_heads": 1}))  # another one
    v1_6.check_folder(write_official(tmp_path / "model", v1_6.model, CLIP, kind, has_tower=True, **ANYRES))


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
@pytest.mark.parametrize("place", ["absolute", "in the model folder", "from the working folder", "vision_tower"])
def test_tower_is_found_by_a_path(v1_5, tmp_path, monkeypatch, place, kind):
    model_folder = tmp_path / "models" / "llava"
    folder = {
        "absolute": tmp_path / "elsewhere" / CLIP,
        "in the model folder": model_folder / "towers" / CLIP,
        "from the working folder": tmp_path / "here" / "towers" / CLIP,
        "vision_tower": model_folder / "vision_tower",
    }[place]
    write_tower(folder, v1_5.model, kind)
    (tmp_path / "here").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "here")
    name = {"absolute": str(folder), "vision_tower": "vision_tower"}.get(place, f"towers/{CLIP}")
    v1_5.check_folder(write_official(model_folder, v1_5.model, name))


def test_tower_may_be_part_of_a_whole_clip_model(v1_5, tmp_path):
    config = CLIPConfig(vision_config=v1_5.model.config.vision_config.to_dict(), text_config={"num_hidden_layers": 1})
    clip = CLIPModel(config)
    clip.vision_model.load_state_dict(v1_5.model.model.vision_tower.vision_model.state_dict())
    clip.save_pretrained(tmp_path / CLIP, safe_serialization=False)
    v1_5.check_folder(write_official(tmp_path / "model", v1_5.model, CLIP))


def test_tower_may_be_a_folder_of_paddlenlps(v1_5, tmp_path):
    write_tower(tmp_path / CLIP, v1_5.model)
    (tmp_path / CLIP / "model.safetensors").unlink()
    start = "llama.vision_tower.vision_tower."
    state = {name: values for name, values in tiny.paddlemix_state(v1_5.model).items() if name.startswith(start)}
    state = {name.removeprefix(start): paddle.to_tensor(values) for name, values in state.items()}
    path = str(tmp_path / CLIP / "model_state.pdparams")
    paddle.save({**state, "text_model.norm.weight": paddle.ones([2]), "logit_scale": paddle.ones([1])}, path)
    folder = write_official(tmp_path / "model", v1_5.model, CLIP)
    v1_5.check_folder(folder)
    paddle.save({**state, "surprise": paddle.ones([2])}, path)
    with pytest.raises(CheckpointError, match="holds 1 unrecognized tensor: surprise"):
        load_model(folder, device="cpu")


def test_missing_tower_is_reported_with_the_searched_places_and_a_fix(v1_5, tmp_path):
    name = "openai/clip-vit-large-patch14-336"
    folder = write_official(tmp_path / "model", v1_5.model, name, mm_hidden_size=1024)
    assert read_config(folder).vision.num_hidden_layers == 24  # known by that name
    text = (
        rf"needs {name}, which does not exist \(looked for .*clip-vit-large-patch14-336.*put the tower's folder there"
    )
    with pytest.raises(CheckpointError, match=f"(?s){text}"):
        load_model(folder, device="cpu")


def test_tower_folder_without_weights_is_refused(v1_5, tmp_path):
    (write_tower(tmp_path / CLIP, v1_5.model) / "model.safetensors").unlink()
    folder = write_official(tmp_path / "model", v1_5.model, CLIP)
    with pytest.raises(CheckpointError, match=r"has no config\.json and weights"):
        load_model(folder, device="cpu")


def test_config_of_a_known_tower_is_read_without_the_tower(v1_5, tmp_path):
    folder = write_official(tmp_path, v1_5.model, "openai/clip-vit-base-patch32", mm_hidden_size=768)
    vision = read_config(folder).vision
    assert (vision.patch_size, vision.num_attention_heads, vision.name) == (32, 12, "openai/clip-vit-base-patch32")


def test_config_describes_how_images_are_read(v1_5, tmp_path):
    write_tower(tmp_path / CLIP, v1_5.model)
    image = read_config(write_official(tmp_path / "a", v1_5.model, CLIP)).image
    assert (image.mode, image.mean, image.std) == ("pad", tuple(PIXELS["image_mean"]), tuple(PIXELS["image_std"]))
    square = read_config(write_official(tmp_path / "b", v1_5.model, CLIP, image_aspect_ratio=None)).image
    assert square.mode == "square"
    grids = {**ANYRES, "image_grid_pinpoints": str([tiny.PINPOINTS[0], [28, 84]])}
    anyres = read_config(write_official(tmp_path / "c", v1_5.model, CLIP, **grids))
    assert anyres.image.grids == ((28, 56), (28, 84))  # as they stand: (width, height)
    assert (anyres.image.merge, anyres.has_image_newline) == ("spatial_unpad", True)


@pytest.mark.parametrize("projector", ["linear", None, "mlp3x_gelu"])
def test_projectors_of_other_depths_are_read(v1_5, tmp_path, projector):
    write_tower(tmp_path / CLIP, v1_5.model)
    folder = write_official(tmp_path / "model", v1_5.model, CLIP, mm_projector_type=projector)
    state = {
        name: value for name, value in torch.load(folder / "pytorch_model.bin").items() if "mm_projector" not in name
    }
    torch.manual_seed(0)
    names = ["0", "2", "4"] if projector == "mlp3x_gelu" else [""]
    layers = [torch.nn.Linear(48 if number else 32, 48) for number in range(len(names))]
    for name, layer in zip(names, layers, strict=True):
        stem = f"model.mm_projector.{name}".rstrip(".")
        state |= {f"{stem}.weight": layer.weight.detach(), f"{stem}.bias": layer.bias.detach()}
    write_torch(folder, state, "bin")
    model = load_model(folder, device="cpu")
    for number, layer in enumerate(layers):
        np.testing.assert_array_equal(model.projector[2 * number].weight.numpy(), layer.weight.detach().numpy().T)


def test_half_precision_is_read_to_the_bit(v1_6, tmp_path):
    model = tiny.hf_model(True).bfloat16()
    folder = write_official(tmp_path, model, "openai/x", has_tower=True, torch_dtype="bfloat16", **ANYRES)
    write_tower(tmp_path / "openai" / "x", model)
    loaded = load_model(folder, device="cpu")
    expected = model.model.language_model.layers[1].mlp.up_proj.weight.detach().float().numpy().T
    np.testing.assert_array_equal(loaded.language_model.layers[1].mlp.up_proj.weight.numpy(), expected)
    assert read_config(folder).dtype == "bfloat16"


def test_computed_buffers_and_an_unused_newline_are_left_out(v1_5, tmp_path):
    write_tower(tmp_path / CLIP, v1_5.model)
    folder = write_official(tmp_path / "model", v1_5.model, CLIP, has_tower=True)
    state = official_state(v1_5.model) | {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.vision_tower.vision_tower.vision_model.embeddings.position_ids": torch.arange(17)[None],
        "model.image_newline": torch.full((48,), float("nan")),
    }
    write_torch(folder, state, "bin")
    v1_5.check_folder(folder)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"architectures": ["LlavaMixtralForCausalLM"]}, "language model of LlavaMixtralFor.*, expected one of Llava"),
        ({"mm_resampler_type": "perceiver"}, "a resampler between tower and projector is not supported"),
        ({"s2": True}, "s2 is set, which is not supported"),
        ({"mm_projector_type": "mlp2x_res0x_gelu"}, "unknown projector type 'mlp2x_res0x_gelu'"),
        ({"image_aspect_ratio": "anyres_max_9"}, "image spec: mode is 'anyres_max_9', expected 'square' or"),
        ({**ANYRES, "mm_patch_merge_type": "bilinear"}, "image spec: merge is 'bilinear', expected 'spatial_unpad' or"),
        ({"image_aspect_ratio": "anyres"}, "needs at least one grid"),
        ({"mm_vision_select_feature": "cls"}, "select_feature is 'cls', expected 'patch' or"),
        ({"mm_vision_tower": None}, r"names no vision tower \(mm_vision_tower\)"),
        ({"mm_hidden_size": 64}, "mm_hidden_size is 64, but the features of the tower .* are 32 wide"),
        ({"rope_scaling": {"type": "yarn", "factor": 2}}, "rope_scaling .* is not supported"),
        ({"mm_vision_tower": 3}, "mm_vision_tower is 3, expected a string"),
        ({"vision_config": "clip"}, "vision_config is 'clip', expected an object"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unsupported_option_is_refused_with_the_reason(v1_5, tmp_path, changes, text):
    write_tower(tmp_path / CLIP, v1_5.model)
    with pytest.raises(CheckpointError, match=text):
        load_model(write_official(tmp_path / "model", v1_5.model, CLIP, **changes), device="cpu")


def test_tower_of_another_kind_is_refused(v1_5, tmp_path):
    path = write_tower(tmp_path / CLIP, v1_5.model) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "blip_2_vision_model"}))
    with pytest.raises(
        CheckpointError,
        match=r"vision tower of type 'blip_2_vision_model', expected one of clip, .*siglip_vision_model",
    ):
        load_model(write_official(tmp_path / "model", v1_5.model, CLIP), device="cpu")


MISSING = {
    "model.mm_projector": "the projector is missing",
    "model.image_newline": "1 tensor missing: image_newline",
    "lm_head": r"1 tensor missing: language_model\.lm_head",
}


@pytest.mark.parametrize(("part", "text"), MISSING.items())
def test_missing_parts_never_load_silently(v1_6, tmp_path, part, text):
    write_tower(tmp_path / CLIP, v1_6.model)
    folder = write_official(tmp_path / "model", v1_6.model, CLIP, has_tower=True, **ANYRES)
    state = {name: value for name, value in official_state(v1_6.model).items() if not name.startswith(part)}
    write_torch(folder, state, "bin")
    with pytest.raises(CheckpointError, match=text):
        load_model(folder, device="cpu")


def test_missing_shard_and_missing_weights_are_named(v1_5, tmp_path):
    write_tower(tmp_path / CLIP, v1_5.model)
    folder = write_official(tmp_path / "model", v1_5.model, CLIP, "sharded-bin")
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(CheckpointError, match=r"shard pytorch_model-00002-of-00003\.bin is missing"):
        load_model(folder, device="cpu")
    (folder / "pytorch_model.bin.index.json").unlink()
    with pytest.raises(CheckpointError, match=r"has neither model\.safetensors .*pytorch_model\.bin"):
        load_model(folder, device="cpu")


def read_back(folder, is_next: bool):
    """Return the torch model of an official folder, with the tower from where LLaVA's own code loads it."""
    raw = json.loads((folder / "config.json").read_text())
    state = {}
    for path in sorted(folder.glob("model*.safetensors")):
        state |= load_file(path)
    if not raw["unfreeze_mm_vision_tower"]:
        tower = CLIPVisionModel.from_pretrained(folder / raw["mm_vision_tower"])
        state |= {f"model.vision_tower.vision_tower.{name}": value for name, value in tower.state_dict().items()}
    model = tiny.hf_model(is_next, seed=5, vision={"num_attention_heads": 1})
    model.load_state_dict({name: state.pop(official_name(name)) for name in model.state_dict()})
    assert not state
    return model.eval(), raw


@pytest.mark.parametrize("size", ["1GB", "30KB"])
@pytest.mark.parametrize("is_next", [False, True])
def test_written_folder_holds_the_model_for_llavas_own_code(request, tmp_path, is_next, size):
    reference = request.getfixturevalue("v1_6" if is_next else "v1_5")
    convert(reference.folder, tmp_path / "out", "official", max_shard_size=size)
    model, raw = read_back(tmp_path / "out", is_next)
    np.testing.assert_allclose(tiny.hf_logits(model, reference.batch, is_next), reference.logits, atol=1e-5)
    assert (raw["architectures"], raw["mm_projector_type"]) == (["LlavaLlamaForCausalLM"], "mlp2x_gelu")
    assert raw.get("mm_patch_merge_type") == ("spatial_unpad" if is_next else "flat")
    reference.check_folder(tmp_path / "out")


def test_tower_with_a_hub_name_is_written_inside_and_used(v1_6, tmp_path):
    write_tower(tmp_path / "openai" / CLIP, tiny.hf_model(False, seed=1, vision={"num_attention_heads": 1}))
    source = write_official(tmp_path / "in", v1_6.model, f"openai/{CLIP}", has_tower=True, **ANYRES)
    shutil.move(tmp_path / "openai", source / "openai")
    convert(source, tmp_path / "out", "official")
    model, raw = read_back(tmp_path / "out", True)
    assert (raw["mm_vision_tower"], raw["unfreeze_mm_vision_tower"]) == (f"openai/{CLIP}", True)
    np.testing.assert_allclose(tiny.hf_logits(model, v1_6.batch, True), v1_6.logits, atol=1e-5)
    assert read_config(tmp_path / "out") == read_config(source)


@pytest.mark.parametrize("layout", ["official", "xtuner"])
@pytest.mark.parametrize("source", ["paddle", "paddlemix"])
def test_written_tokenizer_gives_the_same_ids_in_transformers(tmp_path, source, layout):
    folder = tiny_folder.folder()
    if source == "paddlemix":
        convert(folder, tmp_path / "in", "paddlemix")
        folder = tmp_path / "in"
    convert(folder, tmp_path / "out", layout)
    theirs = LlamaTokenizer.from_pretrained(tmp_path / "out")
    ours = LlavaProcessor.from_pretrained(tmp_path / "out").tokenizer
    for text in ("What colour is the square?", " two  spaces\nand a line", "naïve 3"):
        ids = theirs(text)["input_ids"]
        assert ids == [ours.bos_id, *LlavaProcessor.from_pretrained(folder).tokenizer.encode(text, is_start=True)]
        assert ids[1:] == ours.encode(text, is_start=True)
    assert (theirs.eos_token_id, theirs.bos_token_id) == (ours.eos_id, ours.bos_id)
