"""The help of every command: a sentence, the defaults, and an example that works as it is written."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from paddlemix.cli import COMMANDS, TASKS, command_parser, main
from paddlemix.commands import train
from paddlemix.conversation.templates import TEMPLATES
from paddlemix.train.setting_fields import (
    GROUPS,
    NOT_LISTED,
    ModelArguments,
    OwnArguments,
    TrainerArguments,
    listed_settings,
)
from paddlemix.train.settings import DataArguments

ROOT = Path(__file__).parents[2]
SCRIPTS = {"pretrain": "pretrain.py", "sft": "supervised_finetune.py"}


def parsers():
    """Return the parser of each command and of each part of one, with its name."""
    found = {}
    for name in COMMANDS:
        parser = command_parser(name, f"paddlemix {name}")
        found |= {name: parser} | {f"{name} {part}": one for part, one in parser.parts().items()}
    return found


PARSERS = parsers()


def examples(parser):
    _, title, rest = (parser.epilog or "").partition("example")
    lines = rest.replace("\\\n", "").splitlines() if title else []
    return [" ".join(line.split()) for line in lines if line.startswith("  ")]


@pytest.mark.parametrize("name", PARSERS)
def test_help_has_a_sentence_and_an_example(name):
    parser = PARSERS[name]
    assert re.match(r"[A-Z][^`]", parser.description)
    assert parser.parts() or examples(parser)
    assert f"paddlemix {name}" in parser.format_usage()


@pytest.mark.parametrize("name", [name for name, parser in PARSERS.items() if examples(parser)])
def test_examples_are_commands_that_the_parsers_take(name):
    shell = re.compile(r'eval "\$\((.*)\)"|(.*) \| source')  # of `completion`
    lines = [shell.sub(r"\1\2", line).rpartition("&& ")[2] for line in examples(PARSERS[name])]
    calls = [line for line in lines if line.startswith("paddlemix ")]
    assert calls
    for line in calls:
        _, command, *words = shlex.split(line)
        assert f"{command} ".startswith(name.split()[0])
        command_parser(command).parse(words)
        for word in words:
            assert not word.startswith("paddlemix/") or (ROOT / word).exists()


@pytest.mark.parametrize("name", ["inspect", "extract-projector", "compose", "eval list"])
def test_example_works_as_it_is_written(name, tmp_path):
    (tmp_path / "paddlemix").symlink_to(ROOT / "paddlemix")
    (line,) = examples(PARSERS[name])
    command = [sys.executable, "-W", "ignore", "-m", *shlex.split(line)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=variables, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", PARSERS)
def test_help_states_every_default(name):
    text = PARSERS[name].format_help()
    for action in PARSERS[name]._actions:
        if not action.option_strings or action.nargs == 0 or action.required:
            continue
        own = text.partition(f"\n  {', '.join(action.option_strings)} ")[2].partition("\n  -")[0]
        is_optional = isinstance(action, argparse._AppendAction) or action.default in (None, [], ())
        assert "default" in own or is_optional, action.option_strings


def test_commands_are_shown_by_task_and_it_is_no_error(capsys):
    assert main([]) == 0
    output, errors = capsys.readouterr()
    lines = output.splitlines()
    places = [lines.index(f"{task}:") for task in TASKS]
    assert places == sorted(places) and not errors
    for task, commands in TASKS.items():
        block = lines[lines.index(f"{task}:") + 1 :]
        block = block[: block.index("")]
        assert [line.split()[0] for line in block if line[2] != " "] == list(commands)


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", PARSERS)
def test_help_fits_the_terminal(name, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = PARSERS[name].format_help().splitlines()
    assert [line for line in lines if len(line) > columns and " " in line.strip(" \\")] == []


@pytest.mark.parametrize("name", ["tiny/make_data.py", "eval/make_digits.py"])
def test_descriptions_that_a_script_prints_as_they_are_fit_80_columns(name):
    text = ast.get_docstring(ast.parse((ROOT / "paddlemix/examples/llava" / name).read_text(encoding="utf-8")))
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_of_commands_fits_the_terminal(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main([]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= columns


@pytest.mark.parametrize("name", [name for name, parser in PARSERS.items() if examples(parser)])
def test_examples_that_a_narrow_terminal_breaks_are_the_same_commands(name, monkeypatch):
    def printed(columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        rest = PARSERS[name].format_help().partition("\nexample")[2].partition("\n")[2]
        return [shlex.split(line) for line in rest.replace("\\\n", "").splitlines()]

    commands = [shlex.split(line) for line in examples(PARSERS[name])]
    assert printed(80) == printed(60) == commands


@pytest.mark.parametrize("name", SCRIPTS)
def test_training_help_lists_the_settings_in_groups_and_so_does_the_script(name):
    text = PARSERS[name].format_help()
    for title, settings in listed_settings().items():
        assert f"\n{title}:\n" in text
        assert all(f"\n  --{setting.name} " in text or f"\n  --{setting.name}\n" in text for setting in settings)
    command = [sys.executable, str(ROOT / "paddlemix/examples/llava" / SCRIPTS[name]), "-h"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=600)
    assert done.stdout.splitlines()[0].startswith(f"usage: {SCRIPTS[name]} CONFIG.json")
    assert "\nLoRA:\n  --lora " in done.stdout and not done.stderr


def test_all_settings_of_this_project_are_listed_and_have_a_sentence():
    own = {item.name for cls in (ModelArguments, DataArguments, OwnArguments) for item in dataclasses.fields(cls)}
    listed = [name for names in GROUPS.values() for name in names.split()]
    assert own - set(listed) == set(NOT_LISTED) and len(listed) == len(set(listed))
    assert {item.name for item in dataclasses.fields(TrainerArguments)} == set(listed) - own


def test_listed_defaults_are_those_of_the_trainer():
    pytest.importorskip("paddlenlp")
    from paddlemix.train.arguments import LlavaTrainingArguments

    defaults = {item.name: item.default for item in dataclasses.fields(LlavaTrainingArguments)}
    others = {"output_dir": None, "device": None, "do_train": None}  # required, or chosen when a run starts
    for item in dataclasses.fields(TrainerArguments):
        assert item.default == others.get(item.name, defaults[item.name]), item.name


def test_help_lists_the_chat_templates():
    for name in ("chat", "serve", "eval run", "compose"):
        text = " ".join(PARSERS[name].format_help().split())
        assert f"chat template: {', '.join(TEMPLATES)} (default: " in text


def test_no_page_lists_only_some_templates_for_the_option():
    pages = [*ROOT.glob("README*.md"), *ROOT.glob("docs/**/*.md")]
    rows = [
        line for page in pages for line in page.read_text(encoding="utf-8").splitlines() if "| `--conv-mode`" in line
    ]
    assert rows
    for row in rows:
        assert not {name for name in TEMPLATES if f"`{name}`" in row} or all(f"`{name}`" in row for name in TEMPLATES)


def test_dry_run_takes_the_options_of_doctor(monkeypatch):
    asked = []
    monkeypatch.setattr("paddlemix.commands.doctor.check_run", lambda values, **options: asked.append(options) or 0)
    monkeypatch.setattr(train, "prepare_environment", lambda device: None)
    words = ["--output_dir", "x", "--dry-run", "--no_trial", "--json", "--processes", "4"]
    assert main(["pretrain", *words]) == 0
    found = command_parser("doctor").parse(["--output_dir", "x", "--no_trial", "--json", "--processes", "4"])
    assert (found.no_trial, found.json, found.processes) == (True, True, 4)
    assert asked[0].items() >= {"is_tried": False, "is_json": True, "num_cards": 4, "template": "plain"}.items()


def test_option_of_a_dry_run_without_it_is_refused(capsys):
    assert main(["sft", "--output_dir", "x", "--no-trial"]) == 1
    assert "no_trial is an option of --dry-run" in capsys.readouterr().err
    assert main(["sft", "--dry-run", "--no-trail"]) == 1
    assert "unknown setting 'no_trail': did you mean no_trial?" in capsys.readouterr().err
    assert main(["sft", "--dry-run", "--processes", "0"]) == 1
    assert "--processes is 0: expected at least 1" in capsys.readouterr().err
