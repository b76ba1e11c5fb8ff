"""What `inspect` reports of whole and broken folders, compared with transformers, Paddle and the files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import safetensors.numpy
import tiny_folder
import torch

from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.inspection import inspect
from paddlemix.checkpoints.inspection_facts import describe_image
from paddlemix.image.spec import ANYRES_GRIDS, ImageSpec
from paddlemix.tensor_files.stored import CheckpointError

LAYOUTS = ("paddle", "paddlemix", "hf", "official", "xtuner")


def sizes(found) -> dict[str, int]:
    return {component.name: component.num_parameters for component in found.components}


def numel(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("version", ["v1_5", "v1_6"])
def test_parameters_are_counted_as_torch_counts_them(version, request):
    reference = request.getfixturevalue(version)
    model = reference.model
    found = inspect(reference.folder)

    expected = {
        "vision tower": numel(model.model.vision_tower),
        "projector": numel(model.model.multi_modal_projector),
        "image_newline": model.model.image_newline.numel() if version == "v1_6" else 0,
        "embeddings": numel(model.model.language_model.embed_tokens),
        "layers": numel(model.model.language_model.layers) + numel(model.model.language_model.norm),
        "head": numel(model.lm_head),
    }
    assert sizes(found) == {name: number for name, number in expected.items() if number}
    assert found.num_parameters == numel(model)
    assert found.architecture == type(model).__name__
    assert {component.dtypes for component in found.components} == {("float32",)}
    assert [file.num_bytes for file in found.files] == [(reference.folder / "model.safetensors").stat().st_size]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """The tiny LLaVA 1.5 in every layout, in shards, some in half precision."""
    folder = tmp_path_factory.mktemp("layouts")
    for layout in LAYOUTS:
        dtype = "bfloat16" if layout == "hf" else "float16" if layout == "official" else None
        convert(tiny_folder.folder("pad"), folder / layout, layout, dtype=dtype, max_shard_size="100KB")
    return {layout: folder / layout for layout in LAYOUTS}


@pytest.fixture(scope="module")
def counted() -> dict[str, int]:
    """The numbers of parameters of the same model in Paddle."""
    model, counts = tiny_folder.load("pad")[0], {}
    for name, parameter in model.named_parameters():
        part = name.split(".")[0] if not name.startswith("language_model") else name.split(".")[1]
        counts[part] = counts.get(part, 0) + int(np.prod(parameter.shape))
    return {
        "vision tower": counts["vision_tower"],
        "projector": counts["projector"],
        "embeddings": counts["embed_tokens"],
        "layers": counts["layers"] + counts["norm"],
        "head": counts["lm_head"],
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gets_a_whole_report_without_a_value_being_read(layout, folders, counted, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a value was read")

    monkeypatch.setattr(np, "memmap", refuse)
    monkeypatch.setattr(np, "frombuffer", refuse)
    monkeypatch.setattr(np, "fromfile", refuse)
    found = inspect(folders[layout])

    assert (found.problems, found.notes) == ([], [])
    assert (found.kind, found.format.split()[0]) == ("model", layout)
    if layout == "hf":  # it pads the vocabulary to a multiple of 64
        rows = 448
        counted = {**counted, "embeddings": rows * 48, "head": rows * 48}
    assert sizes(found) == counted
    assert {component.num_parameters - component.num_expected for component in found.components} == {0}
    dtype = {"hf": "bfloat16", "official": "float16"}.get(layout, "float32")
    assert {component.dtypes for component in found.components} == {(dtype,)}
    on_disk = {path for path in folders[layout].rglob("*") if path.suffix in (".safetensors", ".pdparams")}
    assert {folders[layout] / file.name: file.num_bytes for file in found.files} == {
        path: path.stat().st_size for path in on_disk
    }
    assert (found.image["mode"], found.image["side"], found.image["patch_size"]) == ("pad", 28, 7)
    assert (found.image["min_tokens"], found.image["max_tokens"]) == (16, 16)
    assert (found.text["template"], found.text["eos_tokens"]) == ("vicuna_v1", ["</s>"])
    assert found.text["num_tokens"] == 420 + 2 * (layout == "hf")  # <image> and <pad>


def test_no_paddle_is_loaded(folders):
    code = "import sys; from paddlemix.checkpoints.inspection import inspect; "
    code += f"[inspect(path) for path in {[str(path) for path in folders.values()]}]; "
    code += "print([name for name in ('paddle', 'torch', 'requests') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tokens_of_an_image_are_those_of_the_official_code():
    spec = ImageSpec(mode="anyres", grids=ANYRES_GRIDS, merge="spatial_unpad")
    found = describe_image(spec)

    assert (found["min_tokens"], found["max_tokens"], found["tokens_per_tile"]) == (576, 2928, 576)
    assert found["tokens"] == {"640x480": 2340, "480x640": 2352, "1920x1080": 1948}
    assert describe_image(ImageSpec())["max_tokens"] == 576


def change_json(path: Path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut(path: Path):
    path.write_bytes(path.read_bytes()[:-100])


def add_tensor(folder: Path):
    state = safetensors.numpy.load_file(folder / "model.safetensors")
    safetensors.numpy.save_file({**state, "surprise": np.zeros(3, np.float32)}, folder / "model.safetensors")


def put_evil_pickle(folder: Path):
    (folder / "model.safetensors").unlink()
    evil = b"cos\nsystem\n(S'touch " + str(folder / "was_run").encode() + b"'\ntR."
    (folder / "pytorch_model.bin").write_bytes(evil)


DAMAGES = {
    "cut": (
        lambda folder: cut(folder / "model.safetensors"),
        [r"model.safetensors is cut off"],
    ),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        [r"there are no weights \(\*.safetensors, \*.bin or \*.pdparams\)", "has neither model.safetensors nor"],
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), ["has no config.json"]),
    "bad config": (lambda folder: (folder / "config.json").write_text("{"), ["config.json is not valid JSON"]),
    "unknown key of the config": (
        lambda folder: change_json(folder / "config.json", projector_typ="linear"),
        ["unknown key 'projector_typ' in config"],
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.model").unlink(),
        ["there is no tokenizer, expected one of sentencepiece.bpe.model, tokenizer.model, tokenizer.json"],
    ),
    "broken tokenizer": (lambda folder: (folder / "tokenizer.model").write_bytes(b"\xff\xff"), ["tokenizer.model"]),
    "unknown template": (
        lambda folder: change_json(folder / "config.json", template="vicuna_v9"),
        ["vicuna_v9"],
    ),
    "unknown tensor": (add_tensor, ["1 tensor unknown: surprise"]),
    "other projector": (
        lambda folder: change_json(folder / "config.json", projector_type="mlp3x_gelu"),
        [r"2 tensors missing: projector.4.bias, projector.4.weight"],
    ),
    "evil pickle": (put_evil_pickle, [r"pytorch_model.bin"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_report_of_a_broken_folder_lists_its_problems(damage, tmp_path):
    spoil, expected = DAMAGES[damage]
    folder = Path(shutil.copytree(tiny_folder.folder("pad"), tmp_path / "model"))
    spoil(folder)
    found = inspect(folder)

    for pattern in expected:
        assert [problem for problem in found.problems if re.search(pattern, problem)], (pattern, found.problems)
    assert not (folder / "was_run").exists()
    has_weights = (folder / "model.safetensors").exists() and damage != "cut"
    assert (found.num_parameters > 100_000) == has_weights  # also without a config that can be read


def test_wrong_shapes_are_listed_with_both_shapes(tmp_path):
    folder = Path(shutil.copytree(tiny_folder.folder("pad"), tmp_path / "model"))
    values = json.loads((folder / "config.json").read_text())
    change_json(folder / "config.json", language={**values["language"], "intermediate_size": 88})
    found = inspect(folder)

    assert len(found.misshapen) == 6
    assert "language_model.layers.0.mlp.down_proj.weight [80, 48], expected [88, 48]" in found.misshapen
    assert found.problems[0].startswith("6 tensors of another shape: language_model.layers.0.mlp.")


@pytest.mark.parametrize("layout", ["paddle", "paddlemix", "hf", "official", "xtuner"])
def test_a_missing_shard_is_named_and_the_rest_is_counted(layout, folders, counted, tmp_path):
    folder = Path(shutil.copytree(folders[layout], tmp_path / "model"))
    (lost,) = folder.glob("model*-00002-of-*")
    lost.unlink()
    found = inspect(folder)

    assert any(f"shard {lost.name} is missing (" in problem for problem in found.problems)
    assert found.unknown == [] and found.missing != []
    assert 0 < found.num_parameters < sum(counted.values())


def test_second_format_of_weights_is_reported_as_not_read(folders, tmp_path):
    folder = Path(shutil.copytree(folders["official"], tmp_path / "model"))
    torch.save({}, folder / "pytorch_model.bin")

    assert inspect(folder).notes == ["pytorch_model.bin is there as well and is not read"]


def test_an_untrained_projector_is_reported(tmp_path):
    folder = Path(shutil.copytree(tiny_folder.folder("pad"), tmp_path / "model"))
    change_json(folder / "config.json", untrained=["projector"])
    found = inspect(folder)

    assert found.problems == []
    assert found.notes == [
        "the projector of this model is untrained (random values): answers about images make no sense before "
        "`paddlemix pretrain`"
    ]


def test_a_tower_that_the_config_only_names_is_reported_and_not_downloaded(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLEMIX_CACHE", str(tmp_path / "cache"))
    folder = Path(shutil.copytree(folders["official"], tmp_path / "model"))
    shutil.rmtree(folder / "vision_tower")
    (folder / "preprocessor_config.json").unlink()  # of the tower that is gone
    change_json(folder / "config.json", mm_vision_tower="openai/clip-vit-large-patch14-336", mm_hidden_size=1024)
    (problem, *_) = inspect(folder).problems

    for part in (
        "has no vision tower and needs openai/clip-vit-large-patch14-336",
        f"{folder}/openai/clip-vit-large-patch14-336",
        f"the cache {tmp_path}/cache/models",
        "the Hugging Face hub (https://huggingface.co): not asked, because nothing is downloaded now",
    ):
        assert part in problem


def test_language_model_and_tower_alone_are_reported_as_parts(folders, tmp_path):
    for path in folders["xtuner"].iterdir():
        if path.is_file() and not path.name.startswith("xtuner"):
            (tmp_path / "llama").mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / "llama")
    language, tower = inspect(tmp_path / "llama"), inspect(folders["xtuner"] / "visual_encoder")

    assert (language.kind, language.problems) == ("part", [])
    assert language.format == "a LLaMA language model, a part of a LLaVA"
    assert set(sizes(language)) == {"embeddings", "layers", "head"}
    assert tower.format == "a CLIP vision tower, a part of a LLaVA"
    assert set(sizes(tower)) == {"vision tower"}


QUERY = "llama.layers.0.self_attn.q_proj"


def write_lora(folder: Path, **config) -> Path:
    folder.mkdir()
    factors = {f"{QUERY}.lora_A": paddle.ones([48, 4]), f"{QUERY}.lora_B": paddle.ones([4, 48])}
    projector = {"llama.mm_projector.0.bias": paddle.ones([48])}
    paddle.save({**factors, **projector}, str(folder / "lora_model_state.pdparams"))
    values = {"r": 4, "lora_alpha": 10, "lora_dropout": 0.1, "base_model_name_or_path": str(tiny_folder.folder("pad"))}
    (folder / "lora_config.json").write_text(json.dumps({**values, **config}))
    return folder


def test_adapter_is_described_with_rank_alpha_base_and_fully_trained_parts(tmp_path):
    found = inspect(write_lora(tmp_path / "lora"))

    base = str(tiny_folder.folder("pad"))
    assert (found.kind, found.problems) == ("adapter", [])
    assert found.trained == {
        "rank": 4,
        "alpha": 10,
        "dropout": 0.1,
        "scaling": 2.5,
        "num_layers": 1,
        "targets": ["q_proj"],
        "whole": ["llama.mm_projector.0.bias"],
        "base": base,
    }
    assert sizes(found) == {"projector": 48, "layers": 2 * 48 * 4}
    assert found.image["mode"] == "pad" and found.text["tokenizer"] == f"{base}/tokenizer.model"


def test_missing_base_or_weights_of_an_adapter_is_reported(tmp_path):
    lost = inspect(write_lora(tmp_path / "lost", base_model_name_or_path="/nowhere/base"))
    write_lora(tmp_path / "empty")
    (tmp_path / "empty" / "lora_model_state.pdparams").unlink()

    assert lost.trained["rank"] == 4 and lost.trained["base"] is None
    assert any("/nowhere/base" in problem for problem in lost.problems)
    assert inspect(tmp_path / "lost", base=tiny_folder.folder("pad")).problems == []
    assert any("lora_A" in problem for problem in inspect(tmp_path / "empty").problems)


def test_an_adapter_of_peft_is_described(tmp_path):
    layer = "base_model.model.model.layers.1.self_attn.v_proj"
    state = {f"{layer}.lora_A.weight": torch.ones(4, 48), f"{layer}.lora_B.weight": torch.ones(24, 4)}
    torch.save(state, tmp_path / "adapter_model.bin")
    newline = {"base_model.model.model.mm_projector.0.weight": torch.ones(48, 32)}
    torch.save(newline, tmp_path / "non_lora_trainables.bin")
    values = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": str(tiny_folder.folder("pad"))}
    (tmp_path / "adapter_config.json").write_text(json.dumps(values))
    found = inspect(tmp_path)

    assert found.problems == []
    assert (found.trained["rank"], found.trained["alpha"], found.trained["scaling"]) == (4, 8, 2.0)
    assert (found.trained["targets"], found.trained["whole"]) == (["v_proj"], list(newline))
    del state[f"{layer}.lora_B.weight"]
    torch.save(state, tmp_path / "adapter_model.bin")
    assert any("only one of lora_A and lora_B is there for" in problem for problem in inspect(tmp_path).problems)


def test_a_projector_of_stage_1_is_described_as_a_folder_and_as_a_file(tmp_path):
    state = {"model.mm_projector.0.weight": torch.ones(48, 32), "model.mm_projector.0.bias": torch.ones(48)}
    torch.save(state, tmp_path / "mm_projector.bin")
    folder, file = inspect(tmp_path), inspect(tmp_path / "mm_projector.bin")

    assert (folder.kind, file.kind) == ("projector", "file")
    assert sizes(folder) == sizes(file) == {"projector": 48 * 33}
    assert file.trained["whole"] == sorted(state)
    assert any("does not name its base model" in problem for problem in folder.problems) and file.problems == []


def test_path_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing does not exist \(looked for /"):
        inspect(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match="is not a weight file: expected"):
        inspect(tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    assert len(inspect(tmp_path / "empty").problems) == 2
