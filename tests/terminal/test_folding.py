"""Long commands go on in a further line with a backslash, and the shell reads the same words."""

from __future__ import annotations

import shlex

import pytest

from paddlemix.terminal.columns import beside
from paddlemix.terminal.folding import BACKSLASH, COMMAND_PARTS, USAGE_PARTS, folded
from paddlemix.terminal.next_steps import end_of_command

COMMAND = "paddlemix chat --model-path 'a b' --query 'How many -- shapes?' --names x y && echo done | tail"


@pytest.mark.parametrize("width", [20, 40, 60, 200])
def test_the_lines_of_a_command_are_the_same_words(width):
    lines = folded(f"  {COMMAND}", width, COMMAND_PARTS, "    ", BACKSLASH)
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(COMMAND)
    assert all(len(line) <= width or len(COMMAND_PARTS.findall(line.removesuffix(BACKSLASH))) == 1 for line in lines)


def test_values_stay_with_their_option_and_brackets_whole():
    lines = folded("usage: prog A --output DIR [--key value ...]", 26, USAGE_PARTS, "    ")
    assert lines == ["usage: prog A --output DIR", "    [--key value ...]"]


def test_next_commands_are_folded_at_a_terminal_only(monkeypatch):
    assert len(end_of_command([], [("chat", COMMAND)]).splitlines()) == 2
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "50")
    lines = end_of_command([], [("chat", COMMAND)]).splitlines()[1:]
    assert max(map(len, lines)) <= 50 and lines[0].startswith("  chat      paddlemix chat ")
    assert shlex.split("\n".join(lines).replace("\\\n", ""))[1:] == shlex.split(COMMAND)


def test_a_text_beside_a_label_is_broken_at_spaces_and_paths_stay_whole():
    assert beside("size  ", "one two", 10) == ["size  one", "      two"] and beside("size  ", "", 10) == ["size  "]
    assert beside("size  ", "a /long/path/of/a/file", 10)[1] == "      /long/path/of/a/file"
