"""The commands of prepare.md run or are valid, and what the page names exists."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from documentation import PREPARE, block_with, blocks, linked_folder, run, sections
from prepared import rows_of

from paddlemix.cli import command_parser
from paddlemix.prepare.table import CONVERTERS

TEXT = PREPARE[0].read_text(encoding="utf-8")
COMMAND = "paddlemix prepare "
# What a command states -> a value that it may have there.
STAND_INS = {"N": "16", "R": "1", "SEED": "7", "train|eval": "eval", "$SLURM_ARRAY_TASK_ID": "1"}


def commands_in_code() -> list[str]:
    """Return the commands in the tables and in the text, without `paddlemix prepare`."""
    code = [words.rpartition("paddlemix) prepare ")[2] for one in sections(PREPARE[0]) for words in sorted(one.code)]
    return [words for words in code if words.split()[0] in {*CONVERTERS, "cache"} and " --" in words]


def commands_in_blocks() -> list[str]:
    """Return the commands in blocks, also those that a scheduler gets, without `paddlemix prepare`."""
    lines = "".join(blocks(PREPARE[0], "bash") + blocks(PREPARE[0], "")).replace("\\\n", " ").splitlines()
    lines = [shlex.split(line)[-1] if "--wrap" in line else line for line in lines]
    return [line.removeprefix(COMMAND) for line in lines if line.startswith(COMMAND)]


def example_options(name: str) -> list[list[str]]:
    """Return the options of the example in a converter's help, each with its values."""
    words = shlex.split(CONVERTERS[name].example.replace("\\\n", " "))
    starts = [index for index, word in enumerate(words) if word.startswith("--")]
    return [words[start:end] for start, end in zip(starts, [*starts[1:], len(words)], strict=True)]


def words_of(command: str) -> list[str]:
    """Return the words of a command. "..." at its end stands for the rest of the example in the converter's help."""
    words = [STAND_INS.get(word.strip("[]"), word.strip("[]")) for word in shlex.split(command)]
    if words[-1] != "...":
        return words
    rest = [word for option in example_options(words[0]) if option[0] not in words for word in option]
    return [*words[:-1], *rest]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return linked_folder(tmp_path_factory.mktemp("preparation"))


def test_commands_that_run_as_they_stand_do(workspace):
    printed = run(block_with("prepare validate", PREPARE[0]), workspace)
    rows = json.loads((workspace / "work_dirs/shapes/train.json").read_text(encoding="utf-8"))
    parts = [rows_of(workspace / f"work_dirs/shapes_split/train_{name}.jsonl") for name in ("train", "val")]
    assert all(parts) and all(row in parts[0] + parts[1] for row in rows) and len(rows) == len(parts[0] + parts[1])
    for line in (
        f"{len(rows)} rows: {len(rows)} good, 0 bad",
        f"rows  {len(parts[0])} ",
        f"work_dirs/shapes_cache: {len(rows)} rows",
    ):
        assert line.replace(" ", "") in printed.replace(" ", ""), line
    assert (workspace / "work_dirs/shapes_cache/manifest.json").is_file()


def test_every_command_is_valid():
    commands = commands_in_code() + commands_in_blocks()
    for command in commands:
        arguments = command_parser("prepare").parse(words_of(command))
        assert not vars(arguments).get("settings") or "--model_name_or_path" in command, command
    assert {command.split()[0] for command in commands} == {*CONVERTERS, "cache"}


def test_options_in_the_text_about_a_tool_are_its_options():
    points = re.findall(r"^- \*\*(\w+)\*\* (.*?)(?=^- |\n\n)", TEXT, re.DOTALL | re.MULTILINE)
    named = {name: set(re.findall(r"`(--\w+)", text)) for name, text in points if name in CONVERTERS}
    assert set(named) == {"validate", "merge", "sample", "split", "stats"}
    for name, options in named.items():
        known = {argument.name for argument in CONVERTERS[name].arguments} | {"--workers"}
        assert options <= known, name


def test_options_in_the_text_are_options_of_a_converter_or_of_the_cache():
    parts = command_parser("prepare")._subparsers._group_actions[0].choices.values()
    known = {option for part in parts for option in part._option_string_actions}
    named = {word for one in sections(PREPARE[0]) for code in one.code for word in re.findall(r"--[\w-]+", code)}
    assert len(named) > 30 and named - known == {"--key"}  # stands for any setting


def test_the_tables_name_the_files_that_the_help_names():
    rows = [row.split("|") for row in re.findall(r"^\| .*", TEXT, re.MULTILINE)]
    for command, files in (row[2:4] for row in rows):
        stated = [file for file in re.findall(r"`(.*?)`", files) if file.endswith((".json", ".jsonl", ".p"))]
        for name in re.findall(r"`(\w+) ", command):
            parts = [part for file in stated for part in re.split(r"\*|\.\.\.", file)]
            assert all(part in CONVERTERS[name].files for part in parts), name
