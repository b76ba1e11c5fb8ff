"""The projector as a separate file: LLaVA's names and orientation, or PaddleMIX's, out of any layout."""

from __future__ import annotations

import argparse

import numpy as np
import paddle
import pytest
import reference_models as tiny
import torch
from safetensors.torch import load_file, save_file

from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.projector_file import extract_projector
from paddlemix.commands import extract_projector as command
from paddlemix.tensor_files.stored import CheckpointError


def expected_of(reference) -> dict[str, np.ndarray]:
    """Return LLaVA's names and torch's values of a reference model's projector."""
    parts = reference.model.model.multi_modal_projector.state_dict()
    names = {"linear_1": "model.mm_projector.0", "linear_2": "model.mm_projector.2"}
    found = {f"{names[name.split('.')[0]]}.{name.split('.')[1]}": tensor.numpy() for name, tensor in parts.items()}
    newline = getattr(reference.model.model, "image_newline", None)
    return found if newline is None else {**found, "model.image_newline": newline.detach().numpy()}


def check(found, expected):
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name]), values)


@pytest.fixture(params=["v1_5", "v1_6"])
def reference(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["hf", "paddle", "paddlemix", "official", "xtuner"])
def folder(request, reference, tmp_path):
    """The reference model's folder in a layout; xtuner's has no image_newline."""
    if request.param == "hf":
        return reference.folder
    if request.param == "xtuner" and hasattr(reference.model.model, "image_newline"):
        pytest.skip("xtuner has no 1.6")
    convert(reference.folder, tmp_path / request.param, request.param)
    return tmp_path / request.param


def test_projector_of_any_layout_has_llavas_names_and_values(reference, folder, tmp_path):
    names = extract_projector(folder, tmp_path / "p.bin")
    check(torch.load(tmp_path / "p.bin", weights_only=True), expected_of(reference))
    assert set(names) == set(expected_of(reference))


def test_file_is_safetensors_or_pdparams_by_its_ending(reference, tmp_path):
    extract_projector(reference.folder, tmp_path / "p.safetensors")
    check(load_file(tmp_path / "p.safetensors"), expected_of(reference))
    extract_projector(reference.folder, tmp_path / "new" / "p.pdparams")
    theirs = {
        name.replace("model.", "llama.", 1): values.T if values.ndim == 2 else values
        for name, values in expected_of(reference).items()
    }
    check(paddle.load(str(tmp_path / "new" / "p.pdparams"), return_numpy=True), theirs)


def test_dtype_stays_as_it_is_stored(tmp_path):
    tiny.save_hf(tiny.hf_model(False).bfloat16(), tmp_path / "hf", False)
    extract_projector(tmp_path / "hf", tmp_path / "p.bin")
    stored = torch.load(tmp_path / "p.bin", weights_only=True)
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}


def test_file_loads_into_llavas_own_projector(v1_5, tmp_path):
    extract_projector(v1_5.folder, tmp_path / "p.bin")
    stored = torch.load(tmp_path / "p.bin", weights_only=True)
    module = torch.nn.Sequential(torch.nn.Linear(32, 48), torch.nn.GELU(), torch.nn.Linear(48, 48))
    # Select the projector's tensors as LLaVA's code does.
    module.load_state_dict({name.split("mm_projector.")[1]: tensor for name, tensor in stored.items()})
    features = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = v1_5.model.model.multi_modal_projector(features)
        torch.testing.assert_close(module(features), expected)


@pytest.mark.parametrize("name", ["p", "p.npz", "p.bin.txt"])
def test_other_endings_are_refused(v1_5, tmp_path, name):
    with pytest.raises(CheckpointError, match=r"has to end in one of \.bin, \.safetensors, \.pdparams"):
        extract_projector(v1_5.folder, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_model_without_a_projector_is_refused_and_an_older_file_stays(own_copy, tmp_path):
    tensors = load_file(own_copy / "model.safetensors")
    kept = {name: values for name, values in tensors.items() if not name.startswith("projector.")}
    save_file(kept, own_copy / "model.safetensors")
    (tmp_path / "p.bin").write_bytes(b"older")
    with pytest.raises(CheckpointError, match="has no projector with weights"):
        extract_projector(own_copy, tmp_path / "p.bin")
    assert (tmp_path / "p.bin").read_bytes() == b"older"


def test_command_takes_the_model_by_position_or_by_llavas_flag(v1_5, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    for number, model in enumerate(([str(v1_5.folder)], ["--model-path", str(v1_5.folder)])):
        output = tmp_path / f"{number}.bin"
        assert command.run(parser.parse_args([*model, "--output", str(output)])) == 0
        check(torch.load(output, weights_only=True), expected_of(v1_5))
    assert "model.mm_projector.2.bias" in capsys.readouterr().out
    with pytest.raises(ValueError, match="name one model"):
        command.run(parser.parse_args(["--output", "p.bin"]))
