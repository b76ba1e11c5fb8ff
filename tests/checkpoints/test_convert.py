"""From every layout to every other: nothing changes, nothing is lost silently, and nothing half-written looks whole."""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest
import reference_models as tiny
import tiny_folder
from safetensors.numpy import load_file, save_file

from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.layouts import TARGETS, paddlemix
from paddlemix.checkpoints.layouts.folder import Folder
from paddlemix.checkpoints.output_folder import STAGING
from paddlemix.checkpoints.source import open_source
from paddlemix.checkpoints.verify import compare_logits, compare_tensors
from paddlemix.commands import convert as command
from paddlemix.tensor_files.stored import CheckpointError

SHARD = "60KB"
INDEX = "model.safetensors.index.json"


def layouts_of(mode: str) -> list[str]:
    return [name for name in TARGETS if mode == "pad" or name != "xtuner"]


PAIRS = [(mode, one, other) for mode in ("pad", "anyres") for one in layouts_of(mode) for other in layouts_of(mode)]
DTYPES = {"float32": "5GB", "float16": SHARD, "bfloat16": SHARD}  # and how large the files may become


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a function that returns the tiny model in a layout and dtype, made once."""
    parent = tmp_path_factory.mktemp("made")

    def get(mode: str, layout: str, dtype: str = "float32"):
        folder = parent / f"{mode}-{layout}-{dtype}"
        if not folder.exists():
            convert(tiny_folder.folder(mode), folder, layout, dtype=dtype, max_shard_size=DTYPES[dtype])
        return folder

    return get


def files_of(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("mode", "one", "other"), PAIRS)
def test_there_and_back_gives_the_same_files(made, tmp_path, monkeypatch, mode, one, other):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # waiting for the disk takes longer than all else
    for dtype, shard in DTYPES.items():
        start = made(mode, one, dtype)
        convert(start, tmp_path / f"{dtype}-there", other, max_shard_size=shard)
        convert(tmp_path / f"{dtype}-there", tmp_path / f"{dtype}-back", one, max_shard_size=shard)
        before, after = files_of(start), files_of(tmp_path / f"{dtype}-back")
        weights = {name for name in before if name.endswith((".safetensors", ".pdparams", ".index.json"))}
        assert weights and (len(weights) > 2 or shard != SHARD)
        assert {name: after[name] for name in weights} == {name: before[name] for name in weights}
        assert json.loads(after["config.json"]) == json.loads(before["config.json"])


@pytest.mark.parametrize("mode", ["pad", "anyres"])
def test_verification_passes_for_tensors_and_logits_in_every_layout(made, tmp_path, mode):
    for layout in layouts_of(mode):
        source = made(mode, layout, "bfloat16")
        report = convert(source, tmp_path / layout, "paddle", dtype="float16", checks=[compare_tensors, compare_logits])
        text = report.text()
        assert f"all {81 if mode == 'anyres' else 80} tensors are bit-equal" in text and "the logits" in text


def test_tensors_are_cast_while_they_are_converted(made, tmp_path):
    convert(made("pad", "paddle"), tmp_path / "half", "hf", dtype="bfloat16")
    result = open_source(tmp_path / "half")
    assert {tensor.dtype for tensor in result.tensors.values()} == {"bfloat16"}
    assert result.config.dtype == "bfloat16"
    assert json.loads((tmp_path / "half" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    stored = load_file(made("pad", "paddle") / "model.safetensors")["language_model.norm.weight"]
    bits = result.tensors["language_model.norm.weight"].values.astype(np.uint32) << 16
    np.testing.assert_allclose(bits.view(np.float32), stored, rtol=2**-8)


def test_names_and_values_in_paddlemix_layout_are_those_that_it_would_write(v1_6, tmp_path):
    convert(v1_6.folder, tmp_path / "mix", "paddlemix")
    expected = tiny.paddlemix_state(v1_6.model)
    found = paddlemix.open_tensors(Folder(tmp_path / "mix"))
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name].values, values, err_msg=name)
    v1_6.check_folder(tmp_path / "mix")
    assert {"processor/eval/preprocessor_config.json", "config.json"} <= set(files_of(tmp_path / "mix"))


def test_report_lists_mapped_changed_and_dropped_tensors(v1_5, tmp_path):
    folder = shutil.copytree(v1_5.folder, tmp_path / "source")
    tensors = load_file(folder / "model.safetensors")
    extra = "language_model.model.layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(folder / "model.safetensors", {**tensors, extra: np.ones(4, np.float32)})
    report = convert(folder, tmp_path / "result", "official", dtype="float16")
    assert len(report.mapped) == len(tensors) and report.dropped == [extra]
    names = {one.theirs: one for one in report.mapped}
    assert names["model.embed_tokens.weight"].ours == ("language_model.embed_tokens.weight",)
    assert names["model.embed_tokens.weight"].steps == ("cast",)
    assert extra in report.text() and "dropped on purpose: 1" in report.text()
    assert "model.layers.0.mlp.up_proj.weight" in report.text(with_names=True)


def rewrite(path, tensors) -> None:
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})


def edit(name_part: str, change):
    """Return a damage: every tensor whose name contains name_part becomes change(tensor), or is removed for None."""

    def damage(folder) -> None:
        for path in folder.glob("*.safetensors"):
            tensors = load_file(path)
            changed = {name: change(tensor) if name_part in name else tensor for name, tensor in tensors.items()}
            rewrite(path, {name: tensor for name, tensor in changed.items() if tensor is not None})
        remap(folder)

    return damage


def remap(folder) -> None:
    weight_map = {name: path.name for path in folder.glob("*.safetensors") for name in load_file(path)}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def cut_a_shard(folder) -> None:
    path = sorted(folder.glob("*.safetensors"))[2]
    path.write_bytes(path.read_bytes()[:-9])


def lose_a_shard(folder) -> None:
    sorted(folder.glob("*.safetensors"))[1].unlink()


def add_a_tensor(folder) -> None:
    path = sorted(folder.glob("*.safetensors"))[0]
    rewrite(path, {**load_file(path), "model.memory.weight": np.ones(3, np.float32)})
    remap(folder)


DAMAGES = {
    "truncated-shard": (cut_a_shard, "cut off"),
    "missing-shard": (lose_a_shard, "shard .* is missing"),
    "wrong-shape": (edit("layers.1.mlp.up_proj", lambda tensor: tensor[:-1]), r"1 tensor of another shape: .*up_proj"),
    "wrong-axes": (edit("layers.1.mlp.up_proj", lambda tensor: tensor[None]), r"1 tensor of another shape: .*up_proj"),
    "missing-tensor": (edit("layers.1.mlp.up_proj", lambda tensor: None), "1 tensor missing: .*up_proj"),
    "missing-projector": (edit("projector", lambda tensor: None), "the projector is missing"),
    "missing-tower": (edit("vision_tower", lambda tensor: None), "the vision tower is missing"),
    "unknown-key": (add_a_tensor, "1 unrecognized tensor: model.memory.weight"),
    "too-large-for-float16": (
        edit("norm.weight", lambda tensor: tensor * 1e6),
        "norm.weight: .* too large for float16",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
@pytest.mark.parametrize("to", ["paddle", "official"])
def test_damaged_source_is_one_clear_error_and_leaves_nothing(made, tmp_path, case, to):
    damage, message = DAMAGES[case]
    convert(made("pad", "hf"), tmp_path / "source", "hf", max_shard_size=SHARD)
    damage(tmp_path / "source")
    (tmp_path / "empty").mkdir()
    for name in ("absent", "empty"):
        with pytest.raises(CheckpointError, match=message):
            convert(tmp_path / "source", tmp_path / name, to, dtype="float16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "source"]
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize("to", list(TARGETS))
def test_write_that_fails_is_one_clear_error_and_leaves_nothing(made, tmp_path, to):
    # The kernel refuses to let a file grow beyond this, as it does on a full disk (with another number).
    source = made("pad", "paddle")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"could not be written: .*File too large.*nothing was left"):
            convert(source, tmp_path / "result", to)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_disk_that_fills_up_while_the_last_file_is_written_leaves_nothing(made, tmp_path, monkeypatch):
    def full(path, value):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("paddlemix.checkpoints.write.write_json", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        convert(made("pad", "paddle"), tmp_path / "result", "hf")
    assert not list(tmp_path.iterdir())


def test_disk_without_room_is_noticed_before_anything_is_written(made, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(CheckpointError, match=r"has 1\.0 kB free, but the result needs [\d.]+ MB"):
        convert(made("pad", "paddle"), tmp_path / "below" / "result", "hf")
    assert not list(tmp_path.iterdir())


def test_interrupt_leaves_no_files_and_remains_of_a_killed_run_are_removed(made, tmp_path):
    def interrupt(source, result):
        raise KeyboardInterrupt

    source = made("pad", "paddle")
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "result", "hf", checks=[interrupt])
    assert not list(tmp_path.iterdir())
    stale = tmp_path / f".result{STAGING}"
    (stale / "processor").mkdir(parents=True)
    (stale / "model-00007-of-00009.safetensors").write_bytes(b"half")
    (stale / "config.json").write_text("{}")
    convert(source, tmp_path / "result", "paddle")
    assert files_of(tmp_path / "result") == files_of(source)
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_link_in_the_place_of_the_unfinished_folder_is_not_followed(made, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    (tmp_path / f".result{STAGING}").symlink_to(tmp_path / "mine")
    convert(made("pad", "paddle"), tmp_path / "result", "hf")
    assert files_of(tmp_path / "mine") == {"letter": b"dear"}


def test_only_one_process_writes_a_folder(made, tmp_path):
    partial = tmp_path / f".result{STAGING}"
    partial.mkdir()
    handle = os.open(partial, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(CheckpointError, match="another process is writing"):
        convert(made("pad", "paddle"), tmp_path / "result", "hf")
    os.close(handle)
    convert(made("pad", "paddle"), tmp_path / "result", "hf")


def test_destination_that_holds_something_is_left_alone(made, tmp_path):
    source = shutil.copytree(made("pad", "paddle"), tmp_path / "source")
    before = files_of(tmp_path)
    with pytest.raises(CheckpointError, match="is also a source"):
        convert(source, tmp_path / "sub" / ".." / "source", "hf")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="is a file"):
        convert(source, tmp_path / "file", "hf")
    with pytest.raises(CheckpointError, match="is not empty"):
        convert(source, tmp_path, "hf")
    assert files_of(tmp_path) == {**before, "file": b"mine"}


def test_model_that_a_layout_has_no_place_for_is_refused(made, tmp_path):
    with pytest.raises(CheckpointError, match=r"xtuner cannot hold LLaVA 1\.6"):
        convert(made("anyres", "paddle"), tmp_path / "result", "xtuner")
    for field, value, message in (
        ("projector_type", "linear", "cannot hold a projector 'linear'"),
        ("has_image_newline", True, "cannot hold an image_newline"),
    ):
        with pytest.raises(CheckpointError, match=message):
            convert(with_config(made("pad", "paddle"), tmp_path / field, **{field: value}), tmp_path / "result", "hf")
    assert not (tmp_path / "result").exists()


def with_config(folder, output, **changes):
    """Copy a folder of ours, with another config and the tensors that match it."""
    shutil.copytree(folder, output)
    path = output / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    tensors = load_file(output / "model.safetensors")
    if changes.get("projector_type") == "linear":
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("projector.2")}
    if changes.get("has_image_newline"):
        tensors["image_newline"] = np.ones(tiny_folder.LANGUAGE["hidden_size"], np.float32)
    rewrite(output / "model.safetensors", tensors)
    return output


@pytest.mark.parametrize("check", [compare_tensors, compare_logits])
def test_verification_finds_one_wrong_number_and_leaves_nothing(made, tmp_path, check):
    def spoil(source, result):
        path = result.path / "model.safetensors"
        tensors = load_file(path)
        tensors["language_model.layers.0.self_attn.v_proj.weight"][3, 5] += 1
        rewrite(path, tensors)
        return []

    with pytest.raises(CheckpointError, match=r"verification failed: .*(v_proj|logits differ)"):
        convert(made("pad", "hf"), tmp_path / "result", "paddle", checks=[spoil, check])
    assert not list(tmp_path.iterdir())


def test_settings_that_a_layout_cannot_keep_are_reported(made, tmp_path):
    folder = shutil.copytree(made("pad", "paddle"), tmp_path / "source")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "legacy": False}))
    assert not convert(folder, tmp_path / "hf", "hf").notes
    notes = convert(folder, tmp_path / "mix", "paddlemix").notes
    assert len(notes) == 1 and "the tokenizer splits text differently" in notes[0]
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (folder / name).unlink()
    assert convert(folder, tmp_path / "bare", "hf").notes == ["the source has no tokenizer, so the result has none"]


def test_template_and_tower_name_survive_every_layout(made, tmp_path):
    folder = shutil.copytree(made("pad", "paddle"), tmp_path / "source")
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values["template"], values["vision"]["name"] = "llava_llama_2", "somebody/a-tower"
    path.write_text(json.dumps(values))
    for layout in TARGETS:
        report = convert(folder, tmp_path / layout, layout)
        assert not report.notes, report.notes


def test_conversion_needs_no_paddle_and_no_torch():
    code = "import sys, paddlemix.checkpoints.convert; print([m for m in ('paddle', 'torch') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def run_command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(list(words)))


def test_command_converts_verifies_and_prints_the_report(made, tmp_path, capsys):
    source = str(made("pad", "hf"))
    words = ["--to", "official", "--dtype", "bfloat16", "--max-shard-size", SHARD, "--verify", "--list"]
    assert run_command(source, str(tmp_path / "one"), *words) == 0
    text = capsys.readouterr().out
    assert "(hf) -> " in text and "bit-equal" in text and "logits" not in text
    assert "language_model.norm.weight -> model.norm.weight  cast" in text
    assert len(list((tmp_path / "one").glob("*.safetensors"))) > 2
    assert run_command(source, str(tmp_path / "two"), "--to", "paddlemix", "--verify", "logits") == 0
    text = capsys.readouterr().out
    assert "bit-equal" in text and "logits" in text and "dropped on purpose: 0" in text
    with pytest.raises(ValueError, match=r"size '5 cows' is not understood"):
        run_command(source, str(tmp_path / "three"), "--to", "paddle", "--max-shard-size", "5 cows")
    with pytest.raises(SystemExit):
        run_command(source, str(tmp_path / "three"), "--to", "gguf")
    assert "invalid choice: 'gguf'" in capsys.readouterr().err
    assert not (tmp_path / "three").exists()
