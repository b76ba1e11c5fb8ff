"""Which layout a folder has is read off its config and its files, never off its name."""

from __future__ import annotations

import json
import shutil

import pytest
import reference_models as tiny
import tiny_folder
import torch
from safetensors.numpy import save_file
from torch_folders import official_config, write_official, write_peft, write_projector, write_tower

from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.layouts import LAYOUTS, detect
from paddlemix.checkpoints.layouts.folder import Folder
from paddlemix.checkpoints.load import load_model
from paddlemix.checkpoints.processor import LlavaProcessor
from paddlemix.checkpoints.source import partial_layout
from paddlemix.tensor_files.stored import CheckpointError

LAYOUT_NAMES = ("paddle", "paddlemix", "hf", "official", "xtuner")
MISLEADING = ("my-lora", "llava-v1.6-mistral-7b", "xtuner", "checkpoint-100", "mm_projector.bin")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return one model as a folder of every layout."""
    folder = tmp_path_factory.mktemp("layouts")
    for layout in LAYOUT_NAMES:
        convert(tiny_folder.folder(), folder / layout, layout)
    return folder


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_every_layout_is_recognized_by_its_content_whatever_its_name(folders, tmp_path, layout):
    for name in MISLEADING:
        shutil.copytree(folders / layout, tmp_path / name)
        found = detect(Folder(tmp_path / name))
        assert found is LAYOUTS[layout], name
        assert partial_layout(tmp_path / name) is None


def test_names_of_tensors_tell_paddlemix_from_official_where_the_config_does_not(v1_5, tmp_path):
    config = official_config(v1_5.model, "openai/clip-vit-large-patch14-336")
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(tiny.paddlemix_state(v1_5.model), tmp_path / "model.safetensors")
    assert detect(Folder(tmp_path)).name == "paddlemix"
    save_file(
        {"model.norm.weight": tiny.paddlemix_state(v1_5.model)["llama.norm.weight"]}, tmp_path / "model.safetensors"
    )
    assert detect(Folder(tmp_path)).name == "official"


def test_architecture_may_be_missing_where_the_projector_is_named(v1_5, tmp_path):
    write_tower(tmp_path / "clip", v1_5.model)
    folder = write_official(tmp_path / "x", v1_5.model, "clip", architectures=None)
    v1_5.check_folder(folder)


PARTIAL = {
    "lora_config.json": "lora",
    "adapter_config.json": "peft",
    "mm_projector.bin": "trained",
    "mm_projector.safetensors": "trained",
    "notes.txt": None,
}


@pytest.mark.parametrize(("name", "kind"), PARTIAL.items())
def test_partial_checkpoints_are_recognized_by_their_files(tmp_path, name, kind):
    for folder in ("llava-v1.5-7b", "lora"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("{}")
        layout = partial_layout(tmp_path / folder)
        assert (layout and layout.name) == kind


def test_lora_run_without_its_adapter_is_refused(tmp_path):
    (tmp_path / "non_lora_trainables.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"of a LoRA run without its adapter: copy adapter_config\.json"):
        load_model(tmp_path, device="cpu")


def test_error_of_a_missing_folder_lists_the_searched_places():
    for read in (load_model, LlavaProcessor.from_pretrained):
        with pytest.raises(
            CheckpointError, match=r"(?s)model 'liuhaotian/llava-v9' was not found\. Looked for in:.*cache"
        ):
            read("liuhaotian/llava-v9")


@pytest.mark.parametrize("content", ["nothing", "notes", "llama", "unknown"])
def test_error_names_what_was_found_and_every_layout_that_is_read(tmp_path, content):
    texts = {"llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "unknown": {"model_type": "blip"}}
    if content in texts:
        (tmp_path / "config.json").write_text(json.dumps(texts[content]))
    elif content == "notes":
        (tmp_path / "notes.txt").write_text("")
        (tmp_path / "weights").mkdir()
    expected = {
        "nothing": ["has no config.json", "it holds nothing"],
        "notes": ["has no config.json", "it holds notes.txt, weights/"],
        "llama": ["'llama'", "['LlamaForCausalLM']"],
        "unknown": ["'blip'", "architectures None"],
    }
    with pytest.raises(CheckpointError) as error:
        load_model(tmp_path, device="cpu")
    kinds = ("mm_projector.bin", "non_lora_trainables.bin", "adapter_config.json", "lora_config.json")
    for text in (*expected[content], *(f"{name}:" for name in LAYOUT_NAMES), *kinds):
        assert text in str(error.value)


def test_damaged_safetensors_are_named(v1_5, tmp_path):
    folder = write_official(tmp_path, v1_5.model, "clip", "safetensors")
    (folder / "model.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_model(folder, device="cpu")


def test_weights_that_are_a_program_are_refused(v1_5, tmp_path):
    class Trap:
        def __reduce__(self):
            return print, ("run!",)

    write_tower(tmp_path / "clip", v1_5.model)
    folder = write_official(tmp_path / "x", v1_5.model, "clip")
    torch.save({"model.norm.weight": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"is refused: it refers to .*print"):
        load_model(folder, device="cpu")
    write_peft(tmp_path / "y", {}, base_model_name_or_path=str(v1_5.folder))
    (tmp_path / "y" / "adapter_model.safetensors").unlink()
    torch.save({"a.lora_A.weight": Trap()}, tmp_path / "y" / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"is refused: it refers to .*print"):
        load_model(tmp_path / "y", device="cpu")


def test_projector_folder_of_another_tool_is_not_xtuners(tmp_path, v1_5):
    write_projector(tmp_path / "projector", v1_5.model)
    assert detect(Folder(tmp_path)).name == "xtuner"
    (tmp_path / "projector" / "config.json").write_text(json.dumps({"model_type": "mlp"}))
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        detect(Folder(tmp_path))
