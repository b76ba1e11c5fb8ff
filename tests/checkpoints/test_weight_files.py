"""Which files of a folder are its weights, in which formats they are read, and what an index may say."""

from __future__ import annotations

import json
import shutil

import numpy as np
import paddle
import pytest
import reference_models as tiny
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from torch_folders import write_official, write_torch, write_tower
from transformers import LlavaNextForConditionalGeneration

from paddlemix.checkpoints.inspection import inspect
from paddlemix.checkpoints.layouts.components import PADDLE_FILES, TORCH_FILES, open_first
from paddlemix.checkpoints.layouts.folder import Folder
from paddlemix.checkpoints.load import load_model
from paddlemix.tensor_files.safetensors import open_safetensors
from paddlemix.tensor_files.stored import CheckpointError

INDEX = "model.safetensors.index.json"


def write_index(folder, weight_map, name=INDEX, **more) -> None:
    (folder / name).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map, **more}))


def test_whole_file_wins_over_the_index_of_an_earlier_save_as_in_transformers(v1_6, hf_copy):
    write_index(hf_copy, {"lm_head.weight": "model-00001-of-00005.safetensors"})
    theirs = LlavaNextForConditionalGeneration.from_pretrained(hf_copy)
    assert torch.equal(theirs.lm_head.weight, v1_6.model.lm_head.weight)
    v1_6.check_folder(hf_copy)
    found = inspect(hf_copy)
    assert f"{INDEX} is there as well and is not read" in found.notes
    assert not any("shard" in problem for problem in found.problems)


@pytest.mark.parametrize("names", [TORCH_FILES[0], TORCH_FILES[1], PADDLE_FILES[1]], ids=lambda names: names[0])
def test_whole_file_wins_in_every_format(tmp_path, names):
    single, index, _ = names
    values = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    writers = {
        ".safetensors": lambda path: save_file(values, path),
        ".bin": lambda path: torch.save({"a": torch.tensor(values["a"])}, path),
        ".pdparams": lambda path: paddle.save(values, str(path)),
    }
    writers[(tmp_path / single).suffix](tmp_path / single)
    write_index(tmp_path, {"b": f"lost{(tmp_path / single).suffix}"}, index)
    np.testing.assert_array_equal(open_first(Folder(tmp_path), [names])["a"].values, values["a"])


@pytest.mark.parametrize("kind", ["bin", "sharded-bin"])
def test_folder_of_transformers_with_torchs_files_only_loads(v1_6, tmp_path, kind):
    shutil.copy(v1_6.folder / "config.json", tmp_path)
    shutil.copy(v1_6.folder / "preprocessor_config.json", tmp_path)
    write_torch(tmp_path, load_file(v1_6.folder / "model.safetensors"), kind)
    v1_6.check_folder(tmp_path)


def test_safetensors_come_before_torchs_files(v1_6, hf_copy):
    write_torch(hf_copy, {"other": torch.ones(2)}, "bin")
    v1_6.check_folder(hf_copy)


def test_tower_of_an_official_folder_has_a_stale_index_and_torchs_file(v1_5, tmp_path):
    tower = write_tower(tmp_path / "tower", v1_5.model, "bin")
    write_index(tower, {"a": "pytorch_model-00001-of-00002.bin"}, "pytorch_model.bin.index.json")
    v1_5.check_folder(write_official(tmp_path / "model", v1_5.model, str(tower), "sharded-safetensors"))


@pytest.mark.parametrize(
    ("index", "text"),
    [
        ({"weight_map": {"a": "evil"}}, r"names the shard 'evil', expected files that end in \.safetensors"),
        ({"weight_map": {"a": "../x.safetensors"}}, "names a shard outside its folder"),
        ({"weight_map": {"a": "lost.safetensors"}}, "shard lost.safetensors is missing"),
        ({"weight_map": {"a": "evil"}, "ckpt_quant_stage": "O1"}, "states ckpt_quant_stage 'O1'"),
        ({"weight_map": ["a"]}, "has no 'weight_map' object"),
    ],
    ids=["ending", "outside", "missing", "key", "list"],
)
def test_bad_index_is_one_line_in_loading_and_in_inspect(hf_copy, index, text):
    (hf_copy / "model.safetensors").rename(hf_copy / "evil")
    (hf_copy / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=text) as error:
        load_model(hf_copy, device="cpu")
    assert str(hf_copy) in str(error.value) and "\n" not in str(error.value)
    assert any(text.replace("\\", "")[:20] in problem for problem in inspect(hf_copy).problems)


def test_folder_without_weights_names_files_that_are_not_weights(hf_copy):
    (hf_copy / "model.safetensors").rename(hf_copy / "master_weights-00001-of-00001.safetensors")
    text = r"the weights are missing \(master_weights-00001-of-00001\.safetensors is not such a file"
    with pytest.raises(CheckpointError, match=text):
        load_model(hf_copy, device="cpu")


def unified(folder, reference, dtype) -> None:
    """Write what PaddleNLP's trainer leaves as a unified checkpoint: bfloat16 as NumPy's uint16, and other files."""
    config = tiny.paddlemix_config(reference.model, dtype=dtype)
    tiny.write_paddlemix_json(folder, config)
    state = {
        name: paddle.to_tensor(value).astype(dtype) for name, value in tiny.paddlemix_state(reference.model).items()
    }
    names = sorted(state)
    weight_map = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
    for shard in sorted(set(weight_map.values())):
        part = {name: state[name].numpy() for name in names if weight_map[name] == shard}
        save_file(part, folder / shard, metadata={"format": "np"})
    write_index(folder, weight_map)
    for other in ("master_weights", "optimizer"):
        save_file({"x": np.ones(2, np.float32)}, folder / f"{other}-00001-of-00001.safetensors")
        write_index(folder, {"x": f"{other}-00001-of-00001.safetensors"}, f"{other}.safetensors.index.json")


def test_unified_checkpoint_of_paddlenlp_loads(v1_5, tmp_path):
    unified(tmp_path / "model", v1_5, "float32")
    v1_5.check_folder(tmp_path / "model")
    assert not any("tensor" in problem for problem in inspect(tmp_path / "model").problems)


def test_bfloat16_of_a_unified_checkpoint_is_read_by_value(v1_5, tmp_path):
    unified(tmp_path / "model", v1_5, "bfloat16")
    found = load_model(tmp_path / "model", device="cpu").language_model.layers[1].mlp.up_proj.weight.numpy()
    expected = v1_5.model.model.language_model.layers[1].mlp.up_proj.weight.detach().bfloat16().float().numpy().T
    np.testing.assert_array_equal(found, expected)


def test_paddlenlps_folder_with_two_saves_is_refused(v1_5, tmp_path):
    unified(tmp_path / "model", v1_5, "float32")
    state = {name: np.ascontiguousarray(value) for name, value in tiny.paddlemix_state(v1_5.model).items()}
    save_file(state, tmp_path / "model" / "model.safetensors", metadata={"format": "np"})
    with pytest.raises(CheckpointError, match="with all its shards, of which PaddleNLP reads the shards"):
        load_model(tmp_path / "model", device="cpu")
    next((tmp_path / "model").glob("model-00001*")).unlink()
    v1_5.check_folder(tmp_path / "model")


def test_unsigned_numbers_of_torch_are_no_bfloat16(tmp_path):
    values = {"a": np.ones((2, 2), np.uint16)}
    save_file(values, tmp_path / "torch.safetensors", metadata={"format": "pt"})
    save_file(values, tmp_path / "numpy.safetensors", metadata={"format": "np"})
    assert open_safetensors(tmp_path / "torch.safetensors")["a"].dtype == "uint16"
    assert open_safetensors(tmp_path / "numpy.safetensors")["a"].dtype == "bfloat16"
