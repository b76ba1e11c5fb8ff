"""Adapters and projectors of LLaVA's own training, read with their base: as a model of torch with that change."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import paddle
import pytest
import reference_models as tiny
import tiny_folder
import torch
from safetensors.torch import load_file, save_file
from torch_folders import (
    ANYRES,
    change_weights,
    factor_tensors,
    language_model,
    official_config,
    official_name,
    random_factors,
    write_official,
    write_peft,
    write_tower,
)

from paddlemix import LlavaForConditionalGeneration, LlavaProcessor
from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.merge import merge
from paddlemix.checkpoints.projector_file import extract_projector
from paddlemix.checkpoints.source import open_source, read_config
from paddlemix.checkpoints.verify import compare_tensors
from paddlemix.cli import main
from paddlemix.tensor_files.stored import CheckpointError

RANK, ALPHA = 4, 6
TARGETS = [f"model.language_model.layers.{name}.weight" for name in ("0.self_attn.v_proj", "1.mlp.gate_proj")]
PROJECTOR = "model.multi_modal_projector."
VISION = {"num_attention_heads": 1}


def trained(model, is_next: bool, targets=TARGETS, scaling=ALPHA / RANK):
    """Return a model after a LoRA run, and its factors: matrices changed, projector and newline new."""
    other = tiny.hf_model(is_next, vision=VISION)
    other.load_state_dict(model.state_dict())
    factors = random_factors(other, targets, RANK)
    change_weights(other, factors, scaling)
    torch.manual_seed(3)
    for name, parameter in other.named_parameters():
        if name.startswith((PROJECTOR, "model.image_newline")):
            torch.nn.init.normal_(parameter, std=0.3)
    return other, factors


def whole_state(model, prefix: str) -> dict[str, torch.Tensor]:
    """Return projector and newline under LLaVA's names."""
    return {
        prefix + official_name(name): tensor.clone()
        for name, tensor in model.state_dict().items()
        if name.startswith((PROJECTOR, "model.image_newline"))
    }


def write_lora(folder, model, factors, base=None, kind="bin", prefix="base_model.model.", config=None, **changes):
    """Write the folder of a LoRA run of LLaVA's own code."""
    tensors = factor_tensors(factors, official_name)
    write_peft(folder, tensors, kind, base_model_name_or_path=None if base is None else str(base), **changes)
    torch.save(whole_state(model, prefix), folder / "non_lora_trainables.bin")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_llama(folder, model):
    language_model(model).save_pretrained(folder)
    shutil.copy(tiny_folder.folder() / "tokenizer.model", folder)
    return folder


def check(model, reference, torch_model, is_next: bool) -> None:
    with paddle.no_grad():
        logits = model(reference.batch).numpy()
    np.testing.assert_allclose(logits, tiny.hf_logits(torch_model, reference.batch, is_next), atol=1e-4)
    assert np.abs(logits - reference.logits).max() > 0.1


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
@pytest.mark.parametrize("prefix", ["base_model.model.", ""])
def test_lora_over_a_language_model_takes_the_tower_that_its_config_names(v1_5, tmp_path, prefix, kind):
    other, factors = trained(v1_5.model, False)
    base = write_llama(tmp_path / "vicuna", v1_5.model)
    write_tower(tmp_path / "clip", v1_5.model)
    config = official_config(v1_5.model, "openai/clip")
    folder = write_lora(tmp_path / "x", other, factors, base, kind, prefix, config)
    check(load_model(folder, device="cpu"), v1_5, other, False)
    assert read_config(folder).image.mode == "pad"
    assert LlavaProcessor.from_pretrained(folder).tokenizer.vocab_size == tiny_folder.VOCAB_SIZE


@pytest.mark.parametrize("layout", ["hf", "official", "paddle", "paddlemix"])
def test_lora_over_a_whole_model_in_any_layout(v1_6, tmp_path, layout):
    other, factors = trained(v1_6.model, True)
    base = v1_6.folder
    if layout == "official":
        base = write_official(tmp_path / "base", v1_6.model, "openai/clip", has_tower=True, **ANYRES)
        write_tower(tmp_path / "clip", v1_6.model)
    elif layout != "hf":
        base = tmp_path / "base"
        convert(v1_6.folder, base, layout)
    folder = write_lora(tmp_path / "x", other, factors)
    check(load_model(folder, base=base, device="cpu"), v1_6, other, True)
    check(LlavaForConditionalGeneration.from_pretrained(folder, base=base), v1_6, other, True)


def test_adapter_of_a_run_with_transformers_uses_their_names(v1_6, tmp_path):
    other, factors = trained(v1_6.model, True)
    other.model.multi_modal_projector.load_state_dict(v1_6.model.model.multi_modal_projector.state_dict())
    other.model.image_newline.data = v1_6.model.model.image_newline.data
    for style in ("new", "old"):
        name = (
            (lambda name: name) if style == "new" else (lambda name: f"language_{name.replace('.language_', '.', 1)}")
        )
        rename = name if style == "new" else _older_name
        folder = write_peft(tmp_path / style, factor_tensors(factors, rename), base_model_name_or_path=str(v1_6.folder))
        check(load_model(folder, device="cpu"), v1_6, other, True)


def _older_name(name: str) -> str:
    return name.replace("model.language_model.", "language_model.model.")


def test_lora_may_hold_the_tower_and_the_vocabulary_too(v1_5, tmp_path):
    tower = "model.vision_tower.vision_model.encoder.layers.1.self_attn.q_proj.weight"
    other, factors = trained(v1_5.model, False, [*TARGETS, tower])
    folder = write_lora(tmp_path / "x", other, factors, v1_5.folder)
    check(load_model(folder, device="cpu"), v1_5, other, False)
    embedding = torch.cat([other.model.language_model.embed_tokens.weight.detach(), torch.ones(3, 48)])
    head = torch.cat([other.lm_head.weight.detach(), torch.ones(3, 48)])
    vocabulary = {"base_model.model.model.embed_tokens.weight": embedding, "base_model.model.lm_head.weight": head}
    torch.save({**whole_state(other, "base_model.model."), **vocabulary}, folder / "non_lora_trainables.bin")
    model = load_model(folder, device="cpu")
    assert model.config.language.vocab_size == 102
    np.testing.assert_array_equal(model.language_model.lm_head.weight.numpy(), head.numpy().T)


@pytest.mark.parametrize("name", ["mm_projector.bin", "mm_projector.safetensors", "mm_projector.pdparams"])
def test_projector_alone_is_read_over_its_base(v1_6, tmp_path, name):
    other, _ = trained(v1_6.model, True, [])
    tiny.save_hf(other, tmp_path / "tuned", True)
    (tmp_path / "x").mkdir()
    extract_projector(tmp_path / "tuned", tmp_path / "x" / name)
    check(load_model(tmp_path / "x", base=v1_6.folder, device="cpu"), v1_6, other, True)
    check(load_model(tmp_path / "x" / name, base=v1_6.folder, device="cpu"), v1_6, other, True)


def test_stage_1_folder_takes_language_model_and_tower_by_its_config(v1_5, tmp_path):
    other, _ = trained(v1_5.model, False, [])
    write_llama(tmp_path / "vicuna", v1_5.model)
    write_tower(tmp_path / "clip", v1_5.model)
    (tmp_path / "x").mkdir()
    torch.save(whole_state(other, ""), tmp_path / "x" / "mm_projector.bin")
    values = official_config(v1_5.model, "openai/clip", _name_or_path="lmsys/vicuna", tune_mm_mlp_adapter=True)
    (tmp_path / "x" / "config.json").write_text(json.dumps(values))
    check(load_model(tmp_path / "x", device="cpu"), v1_5, other, False)


def test_projector_beside_a_whole_model_is_not_read(v1_6, tmp_path):
    write_tower(tmp_path / "clip", v1_6.model)
    folder = write_official(tmp_path / "x", v1_6.model, "clip", has_tower=True, **ANYRES)
    torch.save({"model.mm_projector.0.weight": torch.zeros(48, 32)}, folder / "mm_projector.bin")
    v1_6.check_folder(folder)


def test_config_beside_a_partial_checkpoint_describes_how_images_are_read(v1_6, tmp_path):
    other, factors = trained(v1_6.model, True)
    values = official_config(v1_6.model, "a tower that is nowhere", mm_vision_select_layer=-1)
    folder = write_lora(tmp_path / "x", other, factors, v1_6.folder, config=values)
    config = read_config(folder)
    assert (config.image.mode, config.vision.select_layer, config.has_image_newline) == ("pad", -1, False)
    assert load_model(folder, device="cpu").image_newline is None


def test_projector_of_another_depth_takes_the_place_of_the_bases(v1_5, tmp_path):
    values = official_config(v1_5.model, "a tower that is nowhere", mm_projector_type="linear")
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    weight = torch.randn(48, 32, generator=torch.Generator().manual_seed(0))
    torch.save(
        {"model.mm_projector.weight": weight, "model.mm_projector.bias": weight[:, 0]}, folder / "mm_projector.bin"
    )
    model = load_model(folder, base=v1_5.folder, device="cpu")
    assert {name for name, _ in model.projector.named_parameters()} == {"0.weight", "0.bias"}
    np.testing.assert_array_equal(model.projector[0].weight.numpy(), weight.numpy().T)


def test_half_precision_base_is_merged_in_float32_and_rounded_once(tmp_path):
    model = tiny.hf_model(False, vision=VISION).bfloat16()
    tiny.save_hf(model, tmp_path / "base", False)
    factors = random_factors(model, TARGETS, RANK)
    folder = write_peft(tmp_path / "x", factor_tensors(factors, official_name))
    weight = model.state_dict()[TARGETS[1]].double() + (factors[TARGETS[1]][1] @ factors[TARGETS[1]][0]).double() * 1.5
    name = "language_model.layers.1.mlp.gate_proj.weight"
    loaded = load_model(folder, base=tmp_path / "base", device="cpu").state_dict()[name].numpy()
    np.testing.assert_allclose(loaded, weight.numpy().T, atol=1e-6)
    source = open_source(folder, tmp_path / "base")
    stored = source.tensors[name]
    assert (stored.dtype, source.config.dtype) == ("bfloat16", "bfloat16")
    values = (stored.values.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(values, weight.float().bfloat16().float().numpy().T)


def test_nothing_is_computed_before_a_tensor_is_asked_for(v1_5, tmp_path):
    other, factors = trained(v1_5.model, False)
    folder = write_lora(tmp_path / "x", other, factors, v1_5.folder, kind="safetensors")
    tensors = open_source(folder).tensors
    name = "language_model.layers.1.mlp.gate_proj.weight"
    path = folder / "adapter_model.safetensors"
    state = load_file(path)
    save_file({key: value * 0 for key, value in state.items()}, path, metadata={"format": "pt"})
    before = v1_5.model.state_dict()[TARGETS[1]].numpy().T
    np.testing.assert_array_equal(tensors[name].values, before)


@pytest.mark.parametrize("kind", ["lora", "projector"])
def test_partial_checkpoints_convert_with_the_base_that_they_name(v1_5, tmp_path, kind):
    other, factors = trained(v1_5.model, False, TARGETS if kind == "lora" else [])
    if kind == "lora":
        folder = write_lora(tmp_path / "x", other, factors, v1_5.folder)
    else:
        folder = tmp_path / "x"
        folder.mkdir()
        torch.save(whole_state(other, ""), folder / "mm_projector.bin")
        (folder / "config.json").write_text(json.dumps({"_name_or_path": str(v1_5.folder)}))
    convert(folder, tmp_path / "out", "official", checks=[compare_tensors])
    check(load_model(tmp_path / "out", device="cpu"), v1_5, other, False)
    convert(folder, tmp_path / "half", "paddle", base=v1_5.folder, dtype="bfloat16", checks=[compare_tensors])
    assert read_config(tmp_path / "half").dtype == "bfloat16"


def test_peft_folder_merges_to_a_folder_that_needs_neither(v1_5, tmp_path):
    other, factors = trained(v1_5.model, False)
    convert(v1_5.folder, tmp_path / "base", "paddle")
    shutil.copy(tiny_folder.folder() / "tokenizer.model", tmp_path / "base")
    folder = write_lora(tmp_path / "x", other, factors)
    merge(folder, tmp_path / "out", base=tmp_path / "base", device="cpu")
    shutil.rmtree(tmp_path / "base")
    check(load_model(tmp_path / "out", device="cpu"), v1_5, other, False)
    assert LlavaProcessor.from_pretrained(tmp_path / "out").tokenizer.vocab_size == tiny_folder.VOCAB_SIZE


def test_chat_takes_the_base_of_an_adapter(tmp_path, monkeypatch, capsys):
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {f"{layer}.lora_A.weight": torch.zeros(RANK, 48), f"{layer}.lora_B.weight": torch.zeros(48, RANK)}
    folder = write_peft(tmp_path / "x", {name.removeprefix("base_model.model."): one for name, one in factors.items()})
    options = ["--model-path", str(folder), "--device", "cpu", "--temperature", "0", "--max-new-tokens", "4"]
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello?\n\n"))
    assert main(["chat", *options, "--model-base", str(tiny_folder.folder())]) == 0
    assert "ASSISTANT: " in capsys.readouterr().out
    assert main(["chat", *options]) == 1
    assert "does not name its base model" in capsys.readouterr().err


BAD_CONFIGS = {
    "use_dora": ({"use_dora": True}, "with the lora_magnitude_vector that adapter_config.json announces"),
    "pissa": ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is 'pissa_niter_16', which changes the base"),
    "loftq": ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
    "kind": ({"peft_type": "IA3"}, "adapters of type 'IA3' are not read"),
    "layer_replication": ({"layer_replication": [[0, 1]]}, "layer_replication is set"),
    "r": ({"r": 0}, "has r 0 for model.layers.0.self_attn.v_proj"),
    "r-text": ({"r": "4"}, "has r '4' for"),
    "alpha": ({"lora_alpha": None}, "has lora_alpha None for"),
    "other-rank": ({"r": 8}, "not of the rank that adapter_config.json says: .*, r 8"),
    "pattern": ({"rank_pattern": {"v_proj": 2}}, "not of the rank .*v_proj .*, r 2"),
    "no-pattern": ({"rank_pattern": {"(": 2}}, "of rank_pattern is not a pattern"),
}


@pytest.mark.parametrize(("changes", "text"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_adapter_that_cannot_be_merged_is_refused(v1_5, tmp_path, changes, text):
    other, factors = trained(v1_5.model, False)
    folder = write_lora(tmp_path / "x", other, factors, v1_5.folder, **changes)
    with pytest.raises(CheckpointError, match=text):
        load_model(folder, device="cpu")


def damaged(**tensors) -> dict[str, torch.Tensor]:
    """Return adapter tensors with one layer's replaced: name with "__" for "." -> shape, None to take it away."""
    layer = "model.layers.0.self_attn.v_proj"
    state = {f"{layer}.lora_A.weight": torch.zeros(RANK, 48), f"{layer}.lora_B.weight": torch.zeros(16, RANK)}
    for name, shape in tensors.items():
        name = f"{layer}.{name.replace('__', '.')}"
        state.pop(name, None)
        if shape is not None:
            state[name] = torch.zeros(shape)
    return state


BAD_TENSORS = {
    "half-a-pair": (damaged(lora_B__weight=None), r"only one of lora_A and lora_B is there for model\.layers\.0"),
    "other-width": (damaged(lora_A__weight=(RANK, 64)), r"trained on another model.*v_proj\.weight \[16, 64\]"),
    "vectors": (damaged(lora_A__weight=(48,)), "not of the rank"),
    "magnitude": (
        damaged(lora_magnitude_vector=(16,)),
        r"unrecognized tensors: model\.layers\.0.*lora_magnitude_vector",
    ),
    "bias": (damaged(lora_B__bias=(16,)), r"unrecognized tensors: .*lora_B\.bias"),
    "unknown": ({**damaged(), "transformer.h.0.lora_A.weight": torch.zeros(RANK, 2)}, "only one of"),
    "layer": (
        {
            "model.layers.9.mlp.up_proj.lora_A.weight": torch.zeros(RANK, 48),
            "model.layers.9.mlp.up_proj.lora_B.weight": torch.zeros(80, RANK),
        },
        r"trained on another model.*layers\.9",
    ),
    "nothing": ({"lm_head.weight": torch.zeros(99, 48)}, "holds no lora_A and lora_B at all"),
    "two": (
        {**damaged(), "model.layers.0.self_attn.v_proj.lora_A.second.weight": torch.zeros(RANK, 48)},
        "holds two tensors for .* only one adapter",
    ),
}


@pytest.mark.parametrize(("tensors", "text"), BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_adapter_tensors_that_do_not_fit_are_refused(v1_5, tmp_path, tensors, text):
    folder = write_peft(tmp_path / "x", tensors, base_model_name_or_path=str(v1_5.folder))
    with pytest.raises(CheckpointError, match=text):
        load_model(folder, device="cpu")


def test_projector_of_another_model_is_refused(v1_5, tmp_path):
    (tmp_path / "x").mkdir()
    torch.save({"model.mm_projector.0.weight": torch.zeros(64, 32)}, tmp_path / "x" / "mm_projector.bin")
    with pytest.raises(CheckpointError, match=r"trained on another model.*mm_projector\.0\.weight \[64, 32\]"):
        load_model(tmp_path / "x", base=v1_5.folder, device="cpu")
    torch.save({"model.vision_resampler.x": torch.zeros(2)}, tmp_path / "x" / "mm_projector.bin")
    with pytest.raises(CheckpointError, match=r"unrecognized tensors: model\.vision_resampler\.x"):
        load_model(tmp_path / "x", base=v1_5.folder, device="cpu")


def test_missing_files_of_a_lora_run_are_named(v1_5, tmp_path):
    other, factors = trained(v1_5.model, False)
    values = official_config(v1_5.model, "openai/clip")
    folder = write_lora(tmp_path / "x", other, factors, v1_5.folder, config=values)
    (folder / "non_lora_trainables.bin").unlink()
    with pytest.raises(CheckpointError, match=r"without non_lora_trainables\.bin, which holds its projector"):
        load_model(folder, device="cpu")
    (folder / "config.json").unlink()
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"neither adapter_model\.safetensors nor adapter_model\.bin"):
        load_model(folder, device="cpu")


def test_base_that_is_not_known_or_does_not_fit_is_an_error(v1_5, tmp_path):
    other, factors = trained(v1_5.model, False)
    folder = write_lora(tmp_path / "x", other, factors)
    with pytest.raises(
        CheckpointError, match=r"is a LoRA folder of peft and does not name its base model: .*--model-base"
    ):
        load_model(folder, device="cpu")
    with pytest.raises(CheckpointError, match=r"(?s)needs the base lmsys/vicuna-7b, which does not exist"):
        load_model(folder, base="lmsys/vicuna-7b", device="cpu")
    with pytest.raises(CheckpointError, match="is a language model only: give a whole LLaVA"):
        load_model(folder, base=write_llama(tmp_path / "llama", v1_5.model), device="cpu")
    with pytest.raises(CheckpointError, match=r"is a complete model \(hf\) and takes no base"):
        load_model(v1_5.folder, base=folder, device="cpu")
    write_lora(tmp_path / "y", other, factors, folder)
    write_lora(folder, other, factors, tmp_path / "y")
    with pytest.raises(CheckpointError, match="chain of bases is circular"):
        load_model(folder, device="cpu")


def test_adapter_may_have_another_adapter_as_its_base(v1_5, tmp_path):
    other, factors = trained(v1_5.model, False)
    second = random_factors(other, TARGETS[:1], RANK, seed=9)
    write_lora(tmp_path / "x", other, factors, v1_5.folder)
    change_weights(other, second, ALPHA / RANK)
    folder = write_peft(tmp_path / "y", factor_tensors(second, official_name), base_model_name_or_path="../x")
    check(load_model(folder, device="cpu"), v1_5, other, False)


def test_whole_model_with_an_adapter_beside_it_is_refused(v1_5, tmp_path):
    shutil.copytree(v1_5.folder, tmp_path / "x")
    write_peft(tmp_path / "x", damaged())
    with pytest.raises(CheckpointError, match="holds a whole model and an adapter"):
        load_model(tmp_path / "x", device="cpu")
