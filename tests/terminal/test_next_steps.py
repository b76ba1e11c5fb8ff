"""What stands at the end of a command fits a terminal and can be pasted; a file has it as it is."""

from __future__ import annotations

import shlex
import sys

import pytest

from paddlemix.terminal.columns import width_of
from paddlemix.terminal.next_steps import end_of_command, hanging

PATH = "/data/experiments/a long name/" + "checkpoints/" * 3 + "out"
COMMAND = f"paddlemix chat --model-path {shlex.quote(PATH)} --image-file images/shapes.png --device npu"
MODULES = ", ".join(f"llama.layer.*{name}_proj.*" for name in ("q", "k", "v", "o", "gate", "up", "down"))


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")


def test_command_on_a_terminal_is_broken_before_options_and_pastes_as_one(terminal):
    lines = end_of_command([("result", "out")], [("chat", COMMAND)]).splitlines()
    assert lines[:2] == ["result      out", "next"] and len(lines) > 3
    assert all(width_of(line) <= 80 or PATH in line for line in lines)
    pasted = "\n".join(lines[2:]).removeprefix("  chat").replace("\\\n", " ")
    assert shlex.split(pasted) == shlex.split(COMMAND)


def test_setting_on_a_terminal_is_wrapped_at_words_and_nothing_of_a_list_is_lost(terminal):
    lines = hanging("  lora_target_modules  ", MODULES)
    assert len(lines) > 2 and all(width_of(line) <= 80 for line in lines)
    assert " ".join(line[23:] for line in lines) == MODULES


def test_long_path_on_a_terminal_keeps_both_ends(terminal):
    (line,) = hanging("dataset     ", "/data/" + "x" * 100 + "/train.json")
    assert width_of(line) <= 80 and line.startswith("dataset     /data/") and line.endswith("/train.json")


def test_file_has_one_line_each():
    assert end_of_command([], [("chat", COMMAND)]) == f"next\n  chat      {COMMAND}"
    assert hanging("  a  ", MODULES) == [f"  a  {MODULES}"]
