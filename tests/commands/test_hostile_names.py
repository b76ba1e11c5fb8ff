"""Names of folders, files and tensors with control characters: every command prints them escaped."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny_folder
from safetensors.numpy import load_file, save_file

from paddlemix import cli

ESCAPE = "\x1b]0;PW\x07\u202e"
SPELLED = r"\x1b]0;PW\x07\u202e"


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that runs a command and returns its code, output and errors."""
    monkeypatch.setattr(cli, "prepare_environment", lambda device: {})  # it would stay set in later tests

    def run(*arguments) -> tuple[int, str, str]:
        code = cli.main(list(map(str, arguments)))
        output, errors = capsys.readouterr()
        assert not {"\x1b", "\x07", "\u202e", "\udcff"} & {*output, *errors}
        return code, output, errors

    return run


@pytest.fixture
def folder(tmp_path):
    """Return a folder with control characters in its name and in the names of a tensor and a file."""
    folder = tmp_path / f"{ESCAPE}\udcff"
    shutil.copytree(tiny_folder.folder("pad"), folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[f"{ESCAPE}\nnothing is missing"] = tensors["projector.0.bias"]
    save_file(tensors, path)
    return folder


def test_inspect_escapes_them_in_text_and_json(run, folder):
    shard = f"{ESCAPE}\nb.safetensors"
    (folder / "model.safetensors").rename(folder / shard)
    index = {"weight_map": dict.fromkeys(load_file(folder / shard), shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    code, output, _ = run("inspect", folder)
    assert code == 1 and SPELLED in output
    assert "nothing is missing" not in output.splitlines()
    assert r"\nnothing is missing" in output and r"\nb.safetensors" in output
    code, output, _ = run("inspect", "--json", folder)
    assert json.loads(output)["unknown"] == [f"{ESCAPE}\nnothing is missing"]


def test_error_of_a_command_is_one_line_that_escapes_them(run, folder, tmp_path):
    for arguments in (
        ("convert", folder, tmp_path / "result", "--to", "hf"),
        ("chat", "--model-path", folder, "--device", "cpu"),
        ("inspect", tmp_path / f"absent{ESCAPE}"),
        ("sft", tmp_path / f"{ESCAPE}.json"),
        ("compose", "--language-model", folder, "--vision-tower", folder, "--output", tmp_path / "new"),
    ):
        code, _, errors = run(*arguments)
        assert code == 1 and errors.startswith("error: ") and errors.count("\n") == 1 and SPELLED in errors


def test_value_of_a_configuration_is_escaped(run, folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "template": ESCAPE}))
    code, output, _ = run("inspect", folder)
    assert code == 1 and SPELLED in output


def test_long_error_is_cut(run, tmp_path):
    code, _, errors = run("inspect", tmp_path / "/".join(["x" * 200] * 60))
    assert code == 1 and len(errors) < 9000
