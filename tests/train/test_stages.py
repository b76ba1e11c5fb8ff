"""A run that needs the result of an earlier stage says which command comes first, and asks no hub."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from paddlemix.cli import main
from paddlemix.doctor.check import Check
from paddlemix.doctor.report import check_lines
from paddlemix.terminal.style import Style
from paddlemix.train.stages import check_start

RECIPES = Path(__file__).parents[2] / "paddlemix/config/llava"


def test_missing_first_stage_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.chdir(RECIPES.parents[2])
    expected = "run the stage before first: paddlemix pretrain paddlemix/config/llava/v1_5/recipe_pretrain.json"
    with pytest.raises(ValueError, match=expected):
        check_start("checkpoints/llava-v1.5-7b-pretrain", RECIPES / "v1_5")
    with pytest.raises(ValueError, match=r"compose it first: .* --output checkpoints/llava-v1.5-7b-start"):
        check_start("checkpoints/llava-v1.5-7b-start", RECIPES / "v1_5")


def test_other_models_are_left_to_the_hubs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints/llava-v1.5-7b-pretrain").mkdir(parents=True)
    check_start("checkpoints/llava-v1.5-7b-pretrain", RECIPES / "v1_5")
    check_start("liuhaotian/llava-v1.5-7b", RECIPES / "v1_5")
    check_start("checkpoints/llava-v1.5-7b-pretrain", None)


@pytest.mark.parametrize("command", ["inspect-data", "prepare cache"])
def test_commands_that_read_a_configuration_say_it(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = ["--output", "out"] if command == "prepare cache" else []
    assert main([*command.split(), str(RECIPES / "v1_5/recipe_lora.json"), *output]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: checkpoints/llava-v1.5-7b-pretrain does not exist yet: run the stage before first")


def test_lines_of_a_fact_stay_apart_in_the_report_of_the_doctor():
    check = Check("model")
    check.fail(
        "model 'a/b' was not found. Looked for in:\n  - the folder /x: it does not exist\n  - hub: " + "word " * 30
    )
    lines = [line[21:] for line in check_lines(check, Style(io.StringIO()))]
    assert lines[0].endswith("Looked for in:") and lines[1] == "  - the folder /x: it does not exist"
    assert lines[2].startswith("  - hub: word") and lines[3].startswith("  word")
