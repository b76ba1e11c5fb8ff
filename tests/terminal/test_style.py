"""Colors and the spinner appear on terminals that want them, and nowhere else."""

from __future__ import annotations

import io
import sys
import time

import pytest

from paddlemix.terminal.style import Style, spinner


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_colors_are_for_terminals_that_want_them(monkeypatch):
    assert Style(Terminal()).paint("a", "error") == "\x1b[31ma\x1b[0m"
    assert Style(Terminal()).prompt("a", "user") == "\x01\x1b[1m\x02a\x01\x1b[0m\x02"
    assert Style(io.StringIO()).paint("a", "error") == "a"
    monkeypatch.setenv("NO_COLOR", "1")
    assert Style(Terminal()).prompt("a", "user") == "a"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert Style(Terminal()).paint("a", "error") == "a"


def test_spinner_turns_and_is_erased(monkeypatch):
    errors = Terminal()
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setattr(sys, "stdout", Terminal())
    with spinner("loading x"):
        end = time.monotonic() + 10
        while "⠙ loading x" not in errors.getvalue():
            assert time.monotonic() < end
            time.sleep(0.01)
    assert errors.getvalue().endswith("\r\x1b[K") and "\n" not in errors.getvalue()


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_pipe_gets_no_spinner(closed, monkeypatch):
    errors = Terminal() if closed == "stdout" else io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setattr(sys, "stdout", io.StringIO() if closed == "stdout" else Terminal())
    with spinner("loading x"):
        time.sleep(0.4)
    assert errors.getvalue() == ""
