"""Numbers of options: what is found and what is expected, in the same words for every option of every command."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from paddlemix.cli import COMMANDS, command_parser, main
from paddlemix.terminal.option_types import above_zero, probability, real, whole


@pytest.mark.parametrize(
    ("kind", "good", "bad", "expected"),
    [
        (whole(), {"-3": -3, "12": 12}, ("1.0", "x", "", "1_0", "9" * 30, "٣"), "a whole number"),
        (whole(1), {"1": 1}, ("0", "-1"), "a whole number of at least 1"),
        (whole(0, 9), {"0": 0, "9": 9}, ("10",), "a whole number from 0 to 9"),
        (whole(None, 9), {"-5": -5}, ("10",), "a whole number of at most 9"),
        (real(), {"-2.5": -2.5, "1e3": 1000.0}, ("nan", "inf", "abc", ""), "a number"),
        (real(0), {"0": 0.0}, ("-1",), "a number of at least 0"),
        (above_zero, {"0.1": 0.1}, ("0", "-1", "nan"), "a number above 0"),
        (probability, {"1": 1.0, "0.9": 0.9}, ("7", "0"), "a number above 0 and at most 1"),
    ],
)
def test_a_number_is_read_or_refused_with_what_is_expected(kind, good, bad, expected):
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError) as caught:
            kind(text)
        assert str(caught.value) == f"found {text!r}, expected {expected}"


@pytest.mark.parametrize(
    "words",
    [
        "chat --temperature abc", "chat --temperature -1", "chat --top-p 7", "chat --seed x", "chat --max-new-tokens 0",
        "chat --top-k -1", "chat --speculate 1.5", "chat --tensor-parallel two", "eval run gqa --temperature -1",
        "eval run gqa --seed x", "eval compare a b --changes x", "bench --steps x", "serve --max-running 0",
        "inspect-data c.json --samples x", "doctor --processes x", "compose --image-size x",
        "prepare split a --val_share nan", "prepare validate a --workers x",
    ],
)  # fmt: skip
def test_a_wrong_number_of_a_command_is_named_with_what_is_expected(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    option, value = words.split()[-2:]
    last = capsys.readouterr().err.splitlines()[-1]
    assert caught.value.code == 2 and option in last and f": found '{value}', expected a " in last


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for part in action.choices.values():
                yield from parsers(part)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_has_a_type_whose_errors_are_those_of_argparse(command):
    plain = [
        f"{parser.prog} {action.option_strings}"
        for parser in parsers(command_parser(command))
        for action in parser._actions
        if action.type in (int, float)
    ]
    assert not plain
