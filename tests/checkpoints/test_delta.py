"""Weights as a difference to a base: sums as torch takes them in half precision, in folders that are whole."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import numpy as np
import pytest
import reference_models as tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from paddlemix.checkpoints import write
from paddlemix.checkpoints.delta import apply_delta, make_delta
from paddlemix.checkpoints.output_folder import NOTE
from paddlemix.commands import apply_delta as apply_command
from paddlemix.commands import make_delta as make_command
from paddlemix.tensor_files import transforms
from paddlemix.tensor_files.stored import CheckpointError
from paddlemix.tensor_files.transforms import BLOCK_BYTES

VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
OTHER_FILES = {"tokenizer.model": "of the delta", "tokenizer_config.json": "{}", "generation_config.json": "{}"}


def make_base(folder, dtype=torch.float16, **options):
    """Save a tiny LLaMA as transformers does and return its tensors."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny.text_config()).to(dtype)
    model.save_pretrained(folder, **options)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def make_other(folder, base, dtype=torch.float16, num_new_rows=2, **changes):
    """Save random weights with a LLaVA's names, as safetensors, and return them; a change to None takes one away."""
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, tensor in base.items():
        num_rows = tensor.shape[0] + (num_new_rows if name in VOCABULARY else 0)
        tensors[name] = torch.randn(num_rows, *tensor.shape[1:], generator=generator).to(dtype)
    for name in ("model.mm_projector.0.weight", "model.vision_tower.vision_tower.x.weight", "model.image_newline"):
        tensors[name] = torch.randn(5, generator=generator).to(dtype)
    tensors |= {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)} | changes
    folder.mkdir()
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlavaLlamaForCausalLM"], "vocab_size": 101}))
    for name, content in OTHER_FILES.items():
        (folder / name).write_text(content)
    return tensors


def expected_sum(base, other, sign):
    """Return the result of torch's addition in half precision, in the rows that the base has."""
    result = {name: tensor.clone() for name, tensor in other.items() if "inv_freq" not in name}
    for name, tensor in base.items():
        rows = result[name][: len(tensor)]
        rows += sign * tensor.to(rows.dtype)
    return result


def test_sum_is_the_same_by_blocks_of_rows(tmp_path, monkeypatch):
    base = make_base(tmp_path / "base")
    other = make_other(tmp_path / "other", base)
    monkeypatch.setattr(transforms, "BLOCK_BYTES", 700)
    apply_delta(tmp_path / "base", tmp_path / "other", tmp_path / "out")
    check(tmp_path / "out", expected_sum(base, other, 1))


def check(folder, expected):
    """Compare a folder's shards, and check that it has no other weights."""
    found = {}
    for shard in folder.glob("*.safetensors"):
        found |= load_file(shard)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("function", "sign"), [(apply_delta, 1), (make_delta, -1)], ids=["apply", "make"])
def test_sum_is_torchs_own_and_new_rows_and_parts_are_copied(tmp_path, function, sign, dtype):
    base = make_base(tmp_path / "base")
    other = make_other(tmp_path / "other", base, dtype)
    function(tmp_path / "base", tmp_path / "other", tmp_path / "out")
    check(tmp_path / "out", expected_sum(base, other, sign))


def test_base_in_another_dtype_is_rounded_first_as_llavas_tools_do(tmp_path):
    base = make_base(tmp_path / "base", torch.float32)
    other = make_other(tmp_path / "other", base)
    apply_delta(tmp_path / "base", tmp_path / "other", tmp_path / "out")
    check(tmp_path / "out", expected_sum({name: tensor.half() for name, tensor in base.items()}, other, 1))


@pytest.mark.parametrize(
    "options",
    [
        {"safe_serialization": False},
        {"safe_serialization": False, "max_shard_size": "20KB"},
        {"max_shard_size": "20KB"},
    ],
    ids=["bin", "bin-shards", "safetensors-shards"],
)
def test_base_is_read_in_every_form_that_transformers_writes(tmp_path, options):
    base = make_base(tmp_path / "base", **options)
    other = make_other(tmp_path / "other", base)
    apply_delta(tmp_path / "base", tmp_path / "other", tmp_path / "out")
    check(tmp_path / "out", expected_sum(base, other, 1))


def test_result_is_sharded_with_an_index_and_has_the_other_files_of_the_delta(tmp_path):
    base = make_base(tmp_path / "base")
    other = make_other(tmp_path / "other", base)
    (tmp_path / "other" / "pytorch_model.bin.index.json").write_text("{}")
    apply_delta(tmp_path / "base", tmp_path / "other", tmp_path / "out", max_shard_size="20KB")
    expected = expected_sum(base, other, 1)
    check(tmp_path / "out", expected)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(expected) and len(set(index["weight_map"].values())) > 3
    for name, shard in index["weight_map"].items():
        assert name in load_file(tmp_path / "out" / shard)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 101
    for name, content in OTHER_FILES.items():
        assert (tmp_path / "out" / name).read_text() == content
    others = {file.name for file in (tmp_path / "out").iterdir() if file.suffix != ".safetensors"}
    assert others == {NOTE, "config.json", "model.safetensors.index.json", *OTHER_FILES}


def test_made_delta_applied_again_gives_the_model(tmp_path):
    base = make_base(tmp_path / "base")
    steps = {name: torch.round(tensor.float() * 64) / 64 for name, tensor in base.items()}  # sums without rounding
    save_file({name: tensor.half() for name, tensor in steps.items()}, tmp_path / "base" / "model.safetensors")
    other = make_other(tmp_path / "other", base)
    other = {name: (torch.round(tensor.float() * 64) / 64).half() for name, tensor in other.items()}
    save_file(other, tmp_path / "other" / "model.safetensors")
    make_delta(tmp_path / "base", tmp_path / "other", tmp_path / "delta")
    apply_delta(tmp_path / "base", tmp_path / "delta", tmp_path / "again")
    check(tmp_path / "again", {name: tensor for name, tensor in other.items() if "inv_freq" not in name})


MISFITS = {
    "missing": ({"model.norm.weight": None}, "1 tensor of the base missing: model.norm.weight"),
    "unknown": ({"model.extra.weight": torch.ones(2)}, "neither in the base nor of a projector or tower: model.extra"),
    "shape": (
        {"model.norm.weight": torch.ones(3)},
        r"of another shape or dtype than the base's: model.norm.weight \(\[3\], base \[48\]\)",
    ),
    "fewer-rows": ({"lm_head.weight": torch.ones(98, 48)}, r"lm_head.weight \(\[98, 48\], base \[99, 48\]\)"),
    "other-width": ({"lm_head.weight": torch.ones(101, 50)}, r"lm_head.weight \(\[101, 50\]"),
    "no-floats": ({"model.norm.weight": torch.ones(48, dtype=torch.int64)}, "model.norm.weight"),
}


@pytest.mark.parametrize(("changes", "message"), MISFITS.values(), ids=MISFITS)
def test_delta_of_another_base_is_refused_and_nothing_is_written(tmp_path, changes, message):
    make_other(tmp_path / "other", make_base(tmp_path / "base"), **changes)
    with pytest.raises(CheckpointError, match=message):
        apply_delta(tmp_path / "base", tmp_path / "other", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "other"]


def test_folder_without_config_is_refused(tmp_path):
    make_other(tmp_path / "other", make_base(tmp_path / "base"))
    (tmp_path / "base" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"base/config\.json does not exist"):
        apply_delta(tmp_path / "base", tmp_path / "other", tmp_path / "out")


@pytest.mark.parametrize("name", ["base", "other", "full"])
def test_folder_that_holds_something_is_not_written_to(tmp_path, name):
    make_other(tmp_path / "other", make_base(tmp_path / "base"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match=r"is also a source|is not empty"):
        apply_delta(tmp_path / "base", tmp_path / "other", tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    make_other(tmp_path / "other", make_base(tmp_path / "base"))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "write_json", fail)
    with pytest.raises(CheckpointError, match="No space left on device"):
        apply_delta(tmp_path / "base", tmp_path / "other", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "other"]


def test_value_that_half_precision_cannot_hold_is_refused(tmp_path):
    base = make_base(tmp_path / "base", torch.float32)
    base["model.norm.weight"][0] = 1e6
    save_file(base, tmp_path / "base" / "model.safetensors")
    make_other(tmp_path / "other", base)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight: the value 1e\+06 is too large for float16"):
        apply_delta(tmp_path / "base", tmp_path / "other", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_commands_take_the_flags_of_llavas_scripts_too(tmp_path, capsys):
    make_other(tmp_path / "other", make_base(tmp_path / "base"))
    paths = [str(tmp_path / name) for name in ("base", "other", "delta", "again")]
    for command, flags in (
        (make_command, ("--base", paths[0], "--target", paths[1], "--delta", paths[2])),
        (apply_command, ("--base-model-path", paths[0], "--delta-path", paths[2], "--target-model-path", paths[3])),
    ):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        assert command.run(parser.parse_args(flags)) == 0
    assert paths[3] in capsys.readouterr().out
    assert (tmp_path / "again" / "model.safetensors").is_file()


def test_large_folders_take_the_memory_of_one_tensor(tmp_path):
    num_bytes, count = 32 << 20, 8
    names = [f"model.layers.{number}.weight" for number in range(count)]
    for place in ("base", "other"):
        (tmp_path / place).mkdir()
        save_file(
            {name: torch.ones(num_bytes // 4096, 2048, dtype=torch.float16) for name in names},
            tmp_path / place / "model.safetensors",
        )
        (tmp_path / place / "config.json").write_text("{}")
    code = (
        "import resource, sys; from paddlemix.checkpoints.delta import apply_delta;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; apply_delta(*sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    places = [str(tmp_path / name) for name in ("base", "other", "out")]
    done = subprocess.run([sys.executable, "-c", code, *places], capture_output=True, text=True, check=True)
    # The two that are mapped, and some blocks, in float32 too; all tensors together are 16.
    assert int(done.stdout) << 10 < 2 * num_bytes + 8 * BLOCK_BYTES
    assert float(np.float16(2)) == load_file(tmp_path / "out" / "model.safetensors")[names[0]][0, 0].item()
