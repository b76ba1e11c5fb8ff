"""Quantized folders, and tensors of a wrong dtype or orientation: one line that names the folder, everywhere."""

from __future__ import annotations

import argparse
import json
import shutil

import paddle
import pytest
import reference_models as tiny
import tiny_folder
import torch
from safetensors.torch import load_file, save_file
from torch_folders import language_model, write_tower

from paddlemix.checkpoints.compose import Choices, compose
from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.inspection import inspect
from paddlemix.checkpoints.layouts.folder import Folder
from paddlemix.checkpoints.layouts.foreign_quantization import refuse_quantized
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.projector_file import read_projector
from paddlemix.commands import inspect as command
from paddlemix.tensor_files.stored import CheckpointError

UP = "layers.0.mlp.up_proj.weight"


def edit_config(folder, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder, end: str, change) -> None:
    """Replace each tensor whose name ends in `end` by the tensors that `change` returns for it, by their ends."""
    out = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        changed = change(tensor) if name.endswith(end) else {"": tensor}
        out |= {name + more: value.clone().contiguous() for more, value in changed.items()}
    save_file(out, folder / "model.safetensors", metadata={"format": "pt"})


def refusals(folder, tmp_path) -> list[str]:
    """Return what loading, converting and inspecting a folder say; the first two name it."""
    texts = []
    for act in (lambda: load_model(folder, device="cpu"), lambda: convert(folder, tmp_path / "out", "paddle")):
        with pytest.raises(CheckpointError) as error:
            act()
        assert str(error.value).startswith(str(folder)) and "\n" not in str(error.value)
        texts.append(str(error.value))
    assert not (tmp_path / "out").exists()
    return [*texts, " ".join(inspect(folder).problems)]


STATEMENTS = {
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quant_method 'bitsandbytes'"),
    "before quant_method": ({"load_in_8bit": True}, "load_in_8bit True"),
    "awq": ({"quant_method": "awq", "bits": 4}, "quant_method 'awq', bits 4"),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "quant_method 'fp8'"),
    "torchao": ({"quant_method": "torchao", "quant_type": {"default": {}}}, "quant_method 'torchao'"),
    "modelopt": ({"quant_algo": "NVFP4"}, "quant_algo 'NVFP4'"),
    "unnamed": ({"group_size": 64, "bits": 4}, "bits 4, group_size 64"),
    "a text": ("int8", "'int8'"),
}


@pytest.mark.parametrize(("stated", "text"), STATEMENTS.values(), ids=STATEMENTS)
def test_statement_of_quantized_weights_is_refused_with_its_method(tmp_path, stated, text):
    for place in ({"quantization_config": stated}, {"text_config": {"quantization_config": stated}}):
        (tmp_path / "config.json").write_text(json.dumps(place))
        with pytest.raises(CheckpointError, match=r"quantization_config.*--load-4bit or --load-8bit") as error:
            refuse_quantized(Folder(tmp_path))
        assert text in str(error.value)


@pytest.mark.parametrize(
    "stated",
    [
        {"quantization_config": None},
        {"quantization_config": {}},
        {"quantization_config": {"quant_type": None, "quant_method": None, "llm_int8_threshold": 6.0, "shift": False}},
        {"quantization_config": {"load_in_4bit": False, "load_in_8bit": False, "bnb_4bit_quant_type": "fp4"}},
    ],
    ids=["null", "empty", "paddlenlp", "bitsandbytes"],
)
def test_statement_that_nothing_is_quantized_changes_nothing(tmp_path, stated):
    (tmp_path / "config.json").write_text(json.dumps(stated))
    refuse_quantized(Folder(tmp_path))


def test_modelopt_file_that_names_an_algorithm_is_refused(tmp_path):
    path = tmp_path / "hf_quant_config.json"
    path.write_text(json.dumps({"producer": {}, "quantization": {"quant_algo": None, "kv_cache_quant_algo": None}}))
    refuse_quantized(Folder(tmp_path))
    path.write_text(json.dumps({"producer": {}, "quantization": {"quant_algo": "FP8"}}))
    with pytest.raises(CheckpointError, match=r"hf_quant_config\.json states a quantization_config \(quant_algo 'FP8'"):
        refuse_quantized(Folder(tmp_path))


@pytest.mark.parametrize("where", ["config.json", "text_config", "quantize_config.json"])
def test_quantized_folder_is_one_line_in_loading_converting_and_inspect(hf_copy, tmp_path, capsys, where):
    stated = {"quant_method": "gptq", "bits": 4}
    text = json.loads((hf_copy / "config.json").read_text())["text_config"]
    if where == "config.json":
        edit_config(hf_copy, quantization_config=stated)
    elif where == "text_config":
        edit_config(hf_copy, text_config={**text, "quantization_config": stated})
    else:
        (hf_copy / where).write_text(json.dumps(stated))
    edit_weights(hf_copy, UP, lambda tensor: {".qweight": tensor.int(), ".scales": tensor})
    for error in refusals(hf_copy, tmp_path):
        assert "quantization_config" in error and "quant_method 'gptq', bits 4" in error
    assert len(inspect(hf_copy).problems) == 1
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.run(parser.parse_args([str(hf_copy)])) == 1
    assert "quant_method 'gptq'" in capsys.readouterr().out


ODD = {
    "swapped": (lambda tensor: {"": tensor.T}, "axes swapped in 1 of the matrices", "[48, 80], expected [80, 48]"),
    "float64": (lambda tensor: {"": tensor.double()}, "is float64, expected float32", "[80, 48]"),
    "int8": (lambda tensor: {"": tensor.to(torch.int8)}, "is int8, expected float32", "[80, 48]"),
    "uint8": (lambda tensor: {"": tensor.to(torch.uint8)}, "is uint8, expected float32", "[80, 48]"),
    "gptq": (lambda tensor: {".qweight": tensor.int(), ".g_idx": tensor}, "tensors of quantized weights", ".qweight"),
    "bitsandbytes": (
        lambda tensor: {"": tensor.to(torch.int8), ".SCB": tensor[0]},
        "tensors of quantized weights",
        ".SCB",
    ),
    "packed": (lambda tensor: {"": tensor.flatten()[:, None]}, "of another shape", "3840"),
}


@pytest.mark.parametrize(("change", "text", "detail"), ODD.values(), ids=ODD)
def test_odd_tensor_is_named_with_its_folder_in_loading_converting_and_inspect(hf_copy, tmp_path, change, text, detail):
    edit_weights(hf_copy, UP, change)
    for error in refusals(hf_copy, tmp_path):
        assert text in error and detail in error and "mlp.up_proj" in error


def test_swapped_axes_of_a_fused_matrix_are_named(phi, tmp_path):
    folder = shutil.copytree(phi.folder, tmp_path / "phi")
    edit_weights(folder, "qkv_proj.weight", lambda tensor: {"": tensor.T})
    for error in refusals(folder, tmp_path):
        assert "layers.0.self_attn.qkv_proj.weight has the shape [48, 80]" in error and "Its axes are swapped" in error


def test_paddlemix_matrix_in_torchs_orientation_is_named(v1_5, tmp_path):
    state = tiny.paddlemix_state(v1_5.model)
    name = f"llama.{UP}"
    tiny.write_paddlemix_json(tmp_path / "model", tiny.paddlemix_config(v1_5.model))
    paddle.save(state | {name: state[name].T}, str(tmp_path / "model" / "model_state.pdparams"))
    for error in refusals(tmp_path / "model", tmp_path):
        assert f"axes swapped in 1 of the matrices: {name} [80, 48], expected [48, 80]" in error


def test_floats_of_eight_bits_are_named_with_file_and_tensor(hf_copy):
    edit_weights(hf_copy, UP, lambda tensor: {"": tensor.to(torch.float8_e4m3fn)})
    with pytest.raises(CheckpointError, match=r"hf/model\.safetensors: .*up_proj.* F8_E4M3.*it is quantized"):
        load_model(hf_copy, device="cpu")
    assert any("F8_E4M3" in problem for problem in inspect(hf_copy).problems)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A decoder and a tower in folders of their own."""
    folder = tmp_path_factory.mktemp("parts")
    model = tiny.hf_model(False, vocab_size=tiny_folder.VOCAB_SIZE)
    language_model(model).save_pretrained(folder / "language")
    for file in tiny_folder.folder("pad").glob("*token*"):
        shutil.copy(file, folder / "language")
    write_tower(folder / "tower", model)
    return folder


PART_CHANGES = {
    "quantized": (lambda folder, _: edit_config(folder, quantization_config={"quant_method": "fp8"}), "'fp8'"),
    "swapped": (lambda folder, end: edit_weights(folder, end, lambda tensor: {"": tensor.T}), "axes swapped in 1"),
    "float64": (lambda folder, end: edit_weights(folder, end, lambda tensor: {"": tensor.double()}), "is float64"),
    "unknown": (lambda folder, end: edit_weights(folder, end, lambda tensor: {"": tensor, ".x": tensor}), r"weight\.x"),
}


@pytest.mark.parametrize("part", ["language", "tower"])
@pytest.mark.parametrize(("change", "text"), PART_CHANGES.values(), ids=PART_CHANGES)
def test_odd_part_is_named_by_compose_and_by_inspect(parts, tmp_path, part, change, text):
    folder = shutil.copytree(parts / part, tmp_path / part)
    change(folder, UP if part == "language" else "layers.0.mlp.fc1.weight")
    sources = {"language": parts / "language", "tower": parts / "tower", part: folder}
    with pytest.raises(CheckpointError, match=text) as error:
        compose(*sources.values(), tmp_path / "out", Choices())
    assert str(folder) in str(error.value)
    (problem,) = inspect(folder).problems
    assert text.replace("\\", "") in problem
    assert inspect(parts / part).problems == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8])
def test_projector_file_of_another_dtype_is_refused(tmp_path, dtype):
    state = {"model.mm_projector.weight": torch.ones(4, 2).to(dtype), "model.mm_projector.bias": torch.ones(4)}
    torch.save(state, tmp_path / "mm_projector.bin")
    with pytest.raises(CheckpointError, match=r"mm_projector\.bin: projector\.0\.weight .* expected float32"):
        read_projector(tmp_path / "mm_projector.bin")
