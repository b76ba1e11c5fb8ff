"""Colors and the spinner appear on terminals that want them, and nowhere else."""

from __future__ import annotations

import io
import sys
import time

import pytest

from paddlemix.terminal.style import CODES, FEW_CODES, Style, spinner


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("COLORTERM", raising=False)
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


def test_colors_can_be_read_on_black_and_on_white(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    assert Style(Terminal()).paint("a", "answer") == "\x1b[38;5;28ma\x1b[0m"
    assert CODES.keys() == FEW_CODES.keys()
    for code in filter(lambda code: code.startswith("38;5;"), CODES.values()):
        light = luminance(int(code.rpartition(";")[2]))
        assert min((light + 0.05) / 0.05, 1.05 / (light + 0.05)) > 3.5


def luminance(number: int) -> float:
    """Return the relative luminance (WCAG 2) of one of the 256 colors of xterm, from 16 on."""
    if number >= 232:
        values = [8 + 10 * (number - 232)] * 3
    else:
        digits = ((number - 16) // 36, (number - 16) // 6 % 6, (number - 16) % 6)
        values = [digit and 55 + 40 * digit for digit in digits]
    linear = [((value / 255 + 0.055) / 1.055) ** 2.4 if value > 10 else value / 255 / 12.92 for value in values]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


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
