"""Projectors with residual blocks against their restatement in torch, in every layout that has them."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
import reference_models as tiny
import tiny_folder
import torch
from safetensors.numpy import load_file
from torch_folders import official_config, official_state, write_torch

from paddlemix.checkpoints.compose import Choices, compose
from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.inspection import inspect
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.projector_file import extract_projector
from paddlemix.tensor_files.stored import CheckpointError
from paddlemix.train.freeze import freeze, lora_targets

TOLERANCE = 1e-4
TOWER_IN, LANGUAGE_IN = 32, 48


class Residual(torch.nn.Module):
    """What LLaVA-NeXT's builder puts behind the MLP, written down once more."""

    def __init__(self, width: int):
        super().__init__()
        self.pre_norm = torch.nn.LayerNorm(width)
        self.proj = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.GELU(), torch.nn.Linear(width, width))

    def forward(self, x):
        normed = self.pre_norm(x)
        return normed + self.proj(normed)


def restated(num_linear: int, num_residual: int) -> torch.nn.Sequential:
    layers = [torch.nn.Linear(TOWER_IN, LANGUAGE_IN)]
    for _ in range(num_linear - 1):
        layers += [torch.nn.GELU(), torch.nn.Linear(LANGUAGE_IN, LANGUAGE_IN)]
    module = torch.nn.Sequential(*layers, *(Residual(LANGUAGE_IN) for _ in range(num_residual)))
    for name, parameter in module.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            torch.nn.init.normal_(parameter, std=0.2)
    return module


@pytest.fixture(
    scope="module", params=[(2, 2), (1, 1), (3, 1)], ids=lambda blocks: "mlp{}x_res{}x_gelu".format(*blocks)
)
def model(request, tmp_path_factory):
    """A LLaVA of torch with such a projector, its type, and its folder in LLaVA's own layout."""
    theirs = tiny.hf_model(False, vocab_size=tiny_folder.VOCAB_SIZE)
    theirs.model.multi_modal_projector = restated(*request.param)
    folder = tmp_path_factory.mktemp("official")
    projector_type = "mlp{}x_res{}x_gelu".format(*request.param)
    write_torch(folder, official_tensors(theirs), "safetensors")
    theirs.model.vision_tower.save_pretrained(folder / "vision_tower")
    config = official_config(theirs, "vision_tower", mm_projector_type=projector_type)
    (folder / "config.json").write_text(json.dumps(config))
    for file in tiny_folder.folder("pad").glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return theirs, projector_type, folder


def official_tensors(model) -> dict[str, torch.Tensor]:
    """Return LLaVA's names, under which the projector's are those of its nn.Sequential."""
    projector, model.model.multi_modal_projector = model.model.multi_modal_projector, torch.nn.Identity()
    state = official_state(model)
    model.model.multi_modal_projector = projector
    return state | {f"model.mm_projector.{name}": tensor for name, tensor in projector.state_dict().items()}


def batch_of(config, with_labels: bool = False):
    return tiny.make_batch(np.random.default_rng(0), [[3, (60, 40), 6], [5, (20, 40), 2]], config.image, with_labels)


def test_logits_equal_the_restatement(model):
    theirs, projector_type, folder = model
    ours = load_model(folder, device="cpu")
    assert ours.config.projector_type == projector_type
    batch = batch_of(ours.config)
    is_real = batch.segment_ids > 0
    with paddle.no_grad():
        found = ours(batch).numpy()
    np.testing.assert_allclose(found[is_real], tiny.hf_logits(theirs, batch, False)[is_real], atol=TOLERANCE)


def test_gradients_of_every_layer_equal_the_restatement(model):
    theirs, _, folder = model
    ours = load_model(folder, device="cpu")
    freeze(ours)
    batch = batch_of(ours.config, with_labels=True)
    ours.loss(batch).backward()
    theirs.zero_grad(set_to_none=True)
    theirs(**tiny.hf_inputs(batch, False)).loss.backward()
    names = dict(ours.projector.named_parameters())
    expected = dict(theirs.model.multi_modal_projector.named_parameters())
    assert names.keys() == expected.keys()
    for name, parameter in names.items():
        gradient = expected[name].grad.numpy()
        gradient = gradient.T if gradient.ndim == 2 else gradient
        assert np.linalg.norm(parameter.grad.numpy() - gradient) <= 1e-3 * np.linalg.norm(gradient), name


@pytest.mark.parametrize("layout", ["paddle", "official"])
def test_there_and_back_keeps_every_bit(model, tmp_path, layout):
    convert(model[2], tmp_path / "ours", "paddle")
    convert(tmp_path / "ours", tmp_path / "there", layout)
    convert(tmp_path / "there", tmp_path / "back", "paddle")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "back"))
    assert before.keys() == after.keys() and any(".proj.2." in name for name in before)
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("layout", ["hf", "xtuner", "paddlemix"])
def test_layouts_without_residual_blocks_refuse_them(model, tmp_path, layout):
    with pytest.raises(CheckpointError, match=f"layout {layout} cannot hold a projector '{model[1]}': .* has "):
        convert(model[2], tmp_path / "out", layout)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["mm_projector.bin", "mm_projector.safetensors", "mm_projector.pdparams"])
def test_extracted_projector_is_composed_again(model, tmp_path, name):
    theirs, projector_type, folder = model
    extract_projector(folder, tmp_path / name)
    config = compose(folder, folder, tmp_path / "out", Choices(projector=tmp_path / name))
    assert (config.projector_type, config.untrained) == (projector_type, ())
    state = load_file(tmp_path / "out" / "model.safetensors")
    for key, tensor in theirs.model.multi_modal_projector.state_dict().items():
        expected = tensor.numpy().T if tensor.ndim == 2 else tensor.numpy()
        np.testing.assert_array_equal(state[f"projector.{key}"], expected)


def test_new_projector_is_drawn_as_torch_initializes_it(model, tmp_path):
    theirs, projector_type, folder = model
    config = compose(folder, folder, tmp_path / "out", Choices(projector_type=projector_type))
    assert config.untrained == ("projector",)
    state = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in theirs.model.multi_modal_projector.state_dict().items():
        values = state[f"projector.{name}"]
        assert values.shape == tuple(tensor.shape)[::-1]
        if "norm" in name:
            assert (values == (1.0 if name.endswith("weight") else 0.0)).all()
        else:
            bound = 1 / np.sqrt(TOWER_IN if name.startswith("0.") else LANGUAGE_IN)
            assert 0.8 * bound < np.abs(values).max() <= bound
    assert not np.array_equal(state["projector.0.weight"][:, :1], state["projector.0.weight"][:, 1:2])


def test_half_a_block_is_no_projector(model, tmp_path):
    extract_projector(model[2], tmp_path / "whole.bin")
    state = torch.load(tmp_path / "whole.bin", weights_only=True)
    name = next(name for name in state if name.endswith("proj.2.bias"))
    torch.save({key: value for key, value in state.items() if key != name}, tmp_path / "half.bin")
    with pytest.raises(CheckpointError, match="does not hold a whole projector"):
        compose(model[2], model[2], tmp_path / "out", Choices(projector=tmp_path / "half.bin"))


def test_inspect_reports_the_type_and_lora_targets_the_blocks(model):
    _, projector_type, folder = model
    found = inspect(folder)
    assert f"-> {projector_type} ->" in found.model and not found.problems
    ours = load_model(folder, device="cpu")
    targets = lora_targets(ours, [r"projector\..*"])
    assert "projector.0" in targets and any(name.endswith(".proj.2") for name in targets)
    assert not any("norm" in name for name in targets)
