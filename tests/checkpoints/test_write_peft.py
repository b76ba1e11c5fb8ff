"""`convert --to peft`: what peft answers with the result over the llava-hf base is what our merged model answers."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import paddle
import peft_folders
import pytest
import torch
from safetensors.numpy import load_file
from test_convert import with_config
from test_lora_folder import ALPHA, RANK, adapter_state, write_adapter
from test_partial import trained, whole_state

from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.output_folder import NOTE
from paddlemix.checkpoints.peft_writer import write_adapter as write_peft_adapter
from paddlemix.cli import main
from paddlemix.tensor_files.stored import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
QV = ["q_proj", "v_proj"]


def check_result(source, result, base, is_next: bool, tolerance: float = 1e-4, **options) -> None:
    with paddle.no_grad():
        expected = load_model(source, device="cpu", **options)(base.batch).numpy()
    logits = peft_folders.logits_of(result, base.folder, base.batch, is_next)
    np.testing.assert_allclose(logits, expected, atol=tolerance)
    assert np.abs(expected - base.logits).max() > 0.1


def own_adapter(folder, base, **whole):
    """Write a LoRA folder of ours: factors and a new projector, as training leaves them."""
    state = {name: values * 0.2 for name, values in adapter_state().items() if name != "llama.image_newline"}
    rng = np.random.default_rng(5)
    shapes = {"0.weight": (32, 48), "0.bias": (48,), "2.weight": (48, 48), "2.bias": (48,)}
    state |= {f"llama.mm_projector.{name}": rng.normal(0, 0.3, shape).astype("f4") for name, shape in shapes.items()}
    return write_adapter(folder, {**state, **whole}, base)


def test_folder_of_ours_becomes_an_adapter_of_peft(v1_5, tmp_path, capsys):
    source = own_adapter(tmp_path / "x", v1_5.folder)
    assert main(["convert", str(source), str(tmp_path / "y"), "--to", "peft", "--verify", "--list"]) == 0
    output = capsys.readouterr().out
    assert "written: 10 tensors" in output and "verified: all 89 tensors" in output
    assert "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight" in output
    check_result(source, tmp_path / "y", v1_5, False)
    values = json.loads((tmp_path / "y" / "adapter_config.json").read_text())
    assert values["base_model_name_or_path"] == str(v1_5.folder.resolve())
    assert (values["r"], values["lora_alpha"], values["modules_to_save"]) == (RANK, ALPHA, ["multi_modal_projector"])
    names = sorted(path.name for path in (tmp_path / "y").iterdir())
    assert names == [NOTE, "adapter_config.json", peft_folders.WEIGHTS]


def test_newline_that_was_trained_is_refused_and_one_that_was_not_is_left_out(v1_6, tmp_path):
    newline = v1_6.model.model.image_newline.detach().numpy()
    source = own_adapter(tmp_path / "x", v1_6.folder, **{"llama.image_newline": newline})
    report = write_peft_adapter(source, tmp_path / "y", is_verified=True)
    assert "left out, as the base has the same: image_newline" in report.text()
    check_result(source, tmp_path / "y", v1_6, True)
    other = own_adapter(tmp_path / "z", v1_6.folder, **{"llama.image_newline": newline + 1})
    with pytest.raises(CheckpointError, match=r"image_newline was trained, and peft has no place for it.*--to hf"):
        write_peft_adapter(other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scalings", [(1, 1, 1), (1, 2, None)], ids=["one-scaling", "a-part-without"])
def test_factors_of_the_parts_of_a_fused_matrix_are_joined_exactly(phi, tmp_path, scalings):
    rng, state = np.random.default_rng(0), {}
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    for name, width, scaling in zip(names, (48, 16, 16), scalings, strict=True):
        if scaling is not None:
            state[f"llama.layers.1.{name}.lora_A"] = rng.normal(0, 0.2, (48, RANK)).astype("f4") * scaling
            state[f"llama.layers.1.{name}.lora_B"] = rng.normal(0, 0.2, (RANK, width)).astype("f4")
    source = write_adapter(tmp_path / "x", state, phi.folder)
    write_peft_adapter(source, tmp_path / "y", is_verified=True)
    check_result(source, tmp_path / "y", phi, False)
    stored = load_file(tmp_path / "y" / peft_folders.WEIGHTS)
    layer = "base_model.model.model.language_model.layers.1.self_attn.qkv_proj"
    ranks = RANK * sum(scaling is not None for scaling in scalings)
    assert {name.removeprefix(layer): one.shape for name, one in stored.items()} == {
        ".lora_A.weight": (ranks, 48),
        ".lora_B.weight": (80, ranks),
    }


SOURCES = {
    "patterns": {"target_modules": [*QV, "k_proj"], "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}},
    "stable": {"target_modules": QV, "use_rslora": True, "r": 5},
    "dora": {"target_modules": [*QV, "fc1", "linear_1"], "use_dora": True},
    "vocabulary": {"target_modules": [*QV, "embed_tokens", "lm_head"]},
    "saved": {"target_modules": "all-linear", "modules_to_save": ["multi_modal_projector", "lm_head"]},
    "tokens": {"target_modules": QV, "trainable_token_indices": [5, 7]},
    "lora-bias": {"target_modules": ["linear_1", "linear_2"], "lora_bias": True},
}


@pytest.mark.parametrize("settings", SOURCES.values(), ids=SOURCES)
def test_adapter_of_peft_there_and_back_answers_the_same(v1_5, tmp_path, settings):
    source = peft_folders.train(tmp_path / "x", v1_5.folder, **settings)
    write_peft_adapter(source, tmp_path / "y", is_verified=True)
    check_result(source, tmp_path / "y", v1_5, False, 2e-5)


def test_lora_of_llavas_own_code_fits_the_llava_hf_base(v1_5, tmp_path):
    import torch_folders

    other, factors = trained(v1_5.model, False)
    source = torch_folders.write_peft(
        tmp_path / "x",
        torch_folders.factor_tensors(factors, torch_folders.official_name),
        base_model_name_or_path=str(v1_5.folder),
    )
    torch.save(whole_state(other, "base_model.model."), source / "non_lora_trainables.bin")
    write_peft_adapter(source, tmp_path / "y", is_verified=True)
    check_result(source, tmp_path / "y", v1_5, False)


def test_base_in_another_layout_is_reported_and_kept(v1_5, tmp_path):
    convert(v1_5.folder, tmp_path / "base", "paddle")
    source = own_adapter(tmp_path / "x", tmp_path / "base")
    report = write_peft_adapter(source, tmp_path / "y", dtype="bfloat16")
    assert "peft loads the adapter over a llava-hf folder, and the base" in report.text()
    assert {one.dtype for one in report.mapped} == {"bfloat16"}
    check_result(source, tmp_path / "y", v1_5, False, 0.5)


def test_tensors_that_peft_cannot_store_are_refused_with_an_alternative(v1_5, tmp_path):
    for number, (settings, text) in enumerate(
        (
            ({"target_modules": QV, "modules_to_save": ["post_layernorm"]}, "of the vision tower, whose names differ"),
            ({"target_modules": ["patch_embedding"]}, "factors of a convolution"),
        )
    ):
        source = peft_folders.train(tmp_path / f"x{number}", v1_5.folder, **settings)
        with pytest.raises(CheckpointError, match=rf"{text}.*--to hf"):
            write_peft_adapter(source, tmp_path / "y")
    state = {"lora_A": np.ones((32, RANK), "f4"), "lora_B": np.ones((RANK, 48), "f4"), "bias": np.ones(48, "f4")}
    state = {f"llama.mm_projector.0.{name}": values for name, values in state.items()}
    with pytest.raises(CheckpointError, match="no layer is left that has factors"):
        write_peft_adapter(write_adapter(tmp_path / "z", state, v1_5.folder), tmp_path / "y")


def test_adapter_whose_base_transformers_cannot_hold_is_answered_with_a_command_that_works(v1_5, tmp_path):
    convert(v1_5.folder, tmp_path / "whole", "paddle")
    base = with_config(tmp_path / "whole", tmp_path / "base", projector_type="linear")
    state = {name: values for name, values in adapter_state().items() if "mm_projector" not in name}
    source = write_adapter(tmp_path / "x", {name: state[name] for name in state if "newline" not in name}, base)
    with pytest.raises(CheckpointError, match=r"cannot hold a projector 'linear'.*merged with its base") as caught:
        write_peft_adapter(source, tmp_path / "y")
    (words,) = re.findall(r"`paddlemix (.*)`", str(caught.value))
    assert main([word.replace("OUT", str(tmp_path / "y")) for word in shlex.split(words)]) == 0
    assert "(or paddlemix, official, xtuner)" in str(caught.value)


def test_whole_model_and_wrong_options_are_refused(v1_5, tmp_path, capsys):
    with pytest.raises(CheckpointError, match=r"is a model in layout hf, not a LoRA folder, .* OUT --to hf`"):
        write_peft_adapter(v1_5.folder, tmp_path / "y")
    arguments = ["convert", str(v1_5.folder), str(tmp_path / "y"), "--to", "peft", "--verify", "logits"]
    assert main(arguments) == 1
    assert "--verify logits is not for --to peft" in capsys.readouterr().err
    source = own_adapter(tmp_path / "x", v1_5.folder)
    with pytest.raises(CheckpointError, match="is also a source"):
        write_peft_adapter(source, source)
