"""xtuner's folders, with every part whole or as an adapter, give the logits of the model that they were made from."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import reference_models as tiny
import torch
from safetensors.torch import load_file
from torch_folders import (
    change_weights,
    factor_tensors,
    language_model,
    random_factors,
    write_peft,
    write_projector,
    write_tower,
)
from transformers import CLIPVisionModel, LlamaForCausalLM

from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.processor import LlavaProcessor
from paddlemix.checkpoints.source import read_config
from paddlemix.tensor_files.stored import CheckpointError

RANK, ALPHA = 4, 6
LLM_TARGETS = [f"model.language_model.layers.{name}.weight" for name in ("0.self_attn.q_proj", "2.mlp.down_proj")]
TOWER_TARGETS = [
    f"model.vision_tower.vision_model.encoder.layers.{name}.weight" for name in ("0.self_attn.k_proj", "1.mlp.fc1")
]
RECIPE = """from transformers import CLIPVisionModel
llm_name_or_path = 'lmsys/tiny-vicuna'
visual_encoder_name_or_path = 'openai/clip-vit-tiny'
model = dict(type=LLaVAModel, visual_select_layer=-3, llm=dict(path=llm_name_or_path), broken=open('nowhere'))
"""


def save_llm(folder, model, **options):
    language_model(model).save_pretrained(folder, **options)
    return folder


def write_xtuner(folder, model, llm="", tower=True):
    """Write xtuner's folder; llm: the place of the language model in it, None to leave it out."""
    write_projector(folder / "projector", model)
    if llm is not None:
        save_llm(folder / llm, model)
    if tower:
        write_tower(folder / "visual_encoder", model)
    return folder


@pytest.mark.parametrize("place", ["", "llm"])
def test_whole_parts_give_the_reference_logits(v1_5, tmp_path, place):
    v1_5.check_folder(write_xtuner(tmp_path, v1_5.model, place))


@pytest.mark.parametrize("options", [{"max_shard_size": "60KB"}, {"safe_serialization": False}], ids=str)
def test_language_model_may_be_sharded_or_torchs_own(v1_5, tmp_path, options):
    folder = write_xtuner(tmp_path, v1_5.model, None)
    save_llm(folder, v1_5.model, **options)
    assert len(list(folder.glob("*model*"))) > (2 if "max_shard_size" in options else 0)
    v1_5.check_folder(folder)


def adapted(model, rank_stabilised=False):
    """Return a copy of the model with merged adapters, and the factors of both."""
    other = tiny.hf_model(False, vision={"num_attention_heads": 1})
    other.load_state_dict(model.state_dict())
    factors = [random_factors(other, names, RANK, seed) for seed, names in enumerate((LLM_TARGETS, TOWER_TARGETS))]
    for part in factors:
        change_weights(other, part, ALPHA / RANK**0.5 if rank_stabilised else ALPHA / RANK)
    return other, *factors


def llm_name(name: str) -> str:
    return name.replace("model.language_model.", "model.")


def tower_name(name: str) -> str:
    return name.removeprefix("model.vision_tower.")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("is_rank_stabilised", [False, True])
def test_adapters_are_merged_into_the_models_that_they_name(v1_5, tmp_path, is_rank_stabilised, kind):
    other, llm, tower = adapted(v1_5.model, is_rank_stabilised)
    folder = write_xtuner(tmp_path / "out", v1_5.model, None, tower=False)
    options = {"use_rslora": is_rank_stabilised, "kind": kind}
    base = str(save_llm(tmp_path / "elsewhere" / "vicuna", v1_5.model))
    write_peft(folder / "llm_adapter", factor_tensors(llm, llm_name), base_model_name_or_path=base, **options)
    write_tower(tmp_path / "clip-vit-tiny", v1_5.model)
    clip = {"base_model_name_or_path": "openai/clip-vit-tiny"}
    write_peft(folder / "visual_encoder_adapter", factor_tensors(tower, tower_name), **clip, **options)
    logits = load_model(folder, device="cpu")(v1_5.batch).numpy()
    np.testing.assert_allclose(logits, tiny.hf_logits(other, v1_5.batch, False), atol=1e-4)
    assert np.abs(logits - v1_5.logits).max() > 0.1


PEFT_OPTIONS = {
    "patterns": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"up_proj": 7}, "modules_to_save": ["lm_head"]},
    "rank-stabilised": {"use_rslora": True},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "fan-in-fan-out": {"fan_in_fan_out": True},
    "one-layer": {"layers_to_transform": [1]},
}


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to True")
@pytest.mark.parametrize("options", PEFT_OPTIONS.values(), ids=PEFT_OPTIONS)
def test_adapter_written_by_peft_is_merged_as_peft_merges_it(v1_5, tmp_path, options):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    options = {"target_modules": ["q_proj", "v_proj", "up_proj"], **options}
    config = peft.LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, task_type="CAUSAL_LM", **options)
    base = save_llm(tmp_path / "base", v1_5.model)
    wrapped = peft.get_peft_model(LlamaForCausalLM.from_pretrained(base), config)
    for name, parameter in wrapped.named_parameters():
        if "lora" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    folder = write_xtuner(tmp_path / "out", v1_5.model, None)
    wrapped.save_pretrained(folder / "llm_adapter")
    before, merged = v1_5.model.state_dict(), wrapped.merge_and_unload().state_dict()
    loaded = dict(load_model(folder, device="cpu").named_parameters())
    num_changed = 0
    for name, values in merged.items():
        ours = loaded["language_model." + name.removeprefix("model.")].numpy()
        expected = values.numpy() if "norm" in name or "embed" in name else values.numpy().T
        np.testing.assert_allclose(ours, expected, atol=1e-5, err_msg=name)
        old = before[name.replace("model.", "model.language_model.", 1)]
        num_changed += not torch.equal(values, old)
    assert num_changed


def test_adapter_that_changes_the_head_of_a_tied_model_is_refused(make_reference, tmp_path):
    model = make_reference(tmp_path / "hf", False, tie_word_embeddings=True).model
    folder = write_xtuner(tmp_path / "out", model, None)
    base = str(save_llm(tmp_path / "base", model))
    for layer, rows in (("lm_head", 99), ("model.layers.0.self_attn.q_proj", 48)):
        factors = {f"{layer}.lora_A.weight": torch.zeros(4, 48), f"{layer}.lora_B.weight": torch.zeros(rows, 4)}
        write_peft(folder / "llm_adapter", factors, base_model_name_or_path=base)
        if layer == "lm_head":
            with pytest.raises(CheckpointError, match=r"changes lm_head\.weight of a model that ties"):
                load_model(folder, device="cpu")
    load_model(folder, device="cpu")


def test_recipe_names_the_untrained_parts_and_is_not_run(v1_5, tmp_path):
    folder = write_xtuner(tmp_path / "out", v1_5.model, None, tower=False)
    (folder / "xtuner_config.py").write_text(RECIPE)
    save_llm(tmp_path / "tiny-vicuna", v1_5.model)
    write_tower(tmp_path / "clip-vit-tiny", v1_5.model)
    config = read_config(folder)
    assert (config.vision.select_layer, config.vision.name) == (-3, "openai/clip-vit-tiny")
    (folder / "xtuner_config.py").write_text(RECIPE.replace("-3", "-2"))
    v1_5.check_folder(folder)


def test_given_base_overrides_the_named_one(v1_5, tmp_path):
    folder = write_xtuner(tmp_path / "out", v1_5.model, None)
    (folder / "xtuner_config.py").write_text(RECIPE.replace("-3", "-2"))
    save_llm(tmp_path / "tiny-vicuna", tiny.hf_model(False, seed=1))
    base = save_llm(tmp_path / "base", v1_5.model)
    v1_5.check(load_model(folder, base=base, device="cpu"))


def test_config_has_the_image_settings_of_xtuner(v1_5, tmp_path):
    config = read_config(write_xtuner(tmp_path, v1_5.model))
    assert (config.image.mode, config.image.mean, config.vision.select_layer) == ("pad", (0.4, 0.5, 0.6), -2)
    assert (config.projector_type, config.dtype, config.eos_token_ids) == ("mlp2x_gelu", "float32", (2,))


def test_images_are_those_of_the_named_tower_where_the_trained_one_came_without_a_processor(v1_5, tmp_path):
    folder = write_xtuner(tmp_path / "out", v1_5.model)
    (folder / "xtuner_config.py").write_text(RECIPE)
    (folder / "visual_encoder" / "preprocessor_config.json").unlink()
    named = write_tower(tmp_path / "clip-vit-tiny", v1_5.model)
    (named / "preprocessor_config.json").write_text('{"resample": 2}')
    assert read_config(folder).image.resample == "bilinear"


def test_tokenizer_comes_from_the_language_model(v1_5, tmp_path):
    import tiny_folder

    folder = write_xtuner(tmp_path / "out", v1_5.model, "llm")
    shutil.copy(tiny_folder.folder() / "tokenizer.model", folder / "llm")
    assert LlavaProcessor.from_pretrained(folder).tokenizer.vocab_size == tiny_folder.VOCAB_SIZE


def edit(path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (
            lambda out: shutil.rmtree(out / "visual_encoder"),
            "has no vision tower and neither .* put the tower's folder",
        ),
        (lambda out: (out / "config.json").unlink(), r"/config\.json does not exist"),
        (lambda out: edit(out / "config.json", model_type="internlm3"), "language model of type 'internlm3'"),
        (lambda out: edit(out / "visual_encoder/config.json", model_type="blip_2"), "vision tower of type 'blip_2'"),
        (lambda out: edit(out / "projector/config.json", visual_hidden_size=128), r"\(token_merge_ratio\)"),
        (lambda out: edit(out / "projector/config.json", hidden_act="silu"), "another activation than gelu"),
        (lambda out: edit(out / "projector/config.json", bias=False), "a projector without bias"),
        (lambda out: edit(out / "projector/config.json", depth=3), r"missing: projector\.4\.bias"),
        (lambda out: edit(out / "projector/config.json", llm_hidden_size=99), "makes features 99 wide"),
        (lambda out: edit(out / "projector/config.json", depth="two"), "depth is 'two', expected a whole number"),
        (lambda out: (out / "projector/model.safetensors").unlink(), "the weights are missing"),
        (lambda out: shutil.copytree(out / "visual_encoder", out / "llm"), "more than one of a language model"),
        (lambda out: (out / "llm_adapter").mkdir(), "more than one of a language model, llm/ and llm_adapter/"),
        (
            lambda out: (out / "visual_encoder_adapter").mkdir(),
            "holds both visual_encoder/ and visual_encoder_adapter/",
        ),
    ],
    ids=range(14),
)
def test_missing_file_or_unsupported_option_is_one_clear_error(v1_5, tmp_path, damage, text):
    folder = write_xtuner(tmp_path, v1_5.model)
    damage(folder)
    with pytest.raises(CheckpointError, match=text):
        load_model(folder, device="cpu")


def test_missing_language_model_is_named(v1_5, tmp_path):
    folder = write_xtuner(tmp_path / "out", v1_5.model, None)
    with pytest.raises(CheckpointError, match=r"has no language model and neither .* --model-base"):
        load_model(folder, device="cpu")
    (folder / "xtuner_config.py").write_text(RECIPE)
    with pytest.raises(CheckpointError, match=r"(?s)needs lmsys/tiny-vicuna, which does not exist .*--model-base"):
        load_model(folder, device="cpu")
    (folder / "xtuner_config.py").write_text("llm_name_or_path = (")
    with pytest.raises(CheckpointError, match="is not valid Python"):
        load_model(folder, device="cpu")
    with pytest.raises(CheckpointError, match=r"has no config\.json and weights"):
        load_model(folder, base=tmp_path, device="cpu")


def test_base_beside_a_whole_language_model_is_refused(v1_5, tmp_path):
    folder = write_xtuner(tmp_path / "out", v1_5.model)
    with pytest.raises(CheckpointError, match="holds a whole language model, so that no base"):
        load_model(folder, base=save_llm(tmp_path / "base", v1_5.model), device="cpu")


@pytest.mark.parametrize("size", ["1GB", "30KB"])
def test_written_folder_is_loaded_by_transformers_part_by_part(v1_5, tmp_path, caplog, size):
    folder = tmp_path / "out"
    convert(v1_5.folder, folder, "xtuner", max_shard_size=size)
    model = tiny.hf_model(False, seed=5, vision={"num_attention_heads": 1})
    llm, clip = LlamaForCausalLM.from_pretrained(folder), CLIPVisionModel.from_pretrained(folder / "visual_encoder")
    assert "newly initialized" not in caplog.text and "not used" not in caplog.text
    model.model.language_model.load_state_dict(llm.model.state_dict())
    model.lm_head.load_state_dict(llm.lm_head.state_dict())
    model.model.vision_tower.load_state_dict(clip.state_dict())
    projector = {}
    for path in (folder / "projector").glob("*.safetensors"):
        projector |= load_file(path)
    for number, layer in ((0, "linear_1"), (2, "linear_2")):
        part = {name: projector.pop(f"model.{number}.{name}") for name in ("weight", "bias")}
        getattr(model.model.multi_modal_projector, layer).load_state_dict(part)
    assert not projector
    np.testing.assert_allclose(tiny.hf_logits(model, v1_5.batch, False), v1_5.logits, atol=1e-5)
    raw = json.loads((folder / "projector" / "config.json").read_text())
    expected = {"model_type": "projector", "depth": 2, "visual_hidden_size": 32, "llm_hidden_size": 48, "bias": True}
    assert {key: raw[key] for key in expected} == expected
    assert read_config(folder) == read_config(v1_5.folder)
    v1_5.check_folder(folder)


def test_v1_6_cannot_be_written(v1_6, tmp_path):
    with pytest.raises(CheckpointError, match=r"layout xtuner cannot hold LLaVA 1\.6"):
        convert(v1_6.folder, tmp_path / "out", "xtuner")
    assert not (tmp_path / "out").exists()
