"""Control and hidden characters are made visible, and sizes are printed in the unit that fits."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from paddlemix.terminal import streams
from paddlemix.terminal.log import notice, print_error
from paddlemix.terminal.sizes import in_bytes, in_memory, plural
from paddlemix.terminal.visible import harmless, visible, visible_json, visible_line
from paddlemix.web.request import printable

ROOT = Path(__file__).parents[2]
ATTACKS = {
    "title": ("\x1b]0;PW\x07", r"\x1b]0;PW\x07"),
    "colour": ("\x9b31mred", r"\x9b31mred"),
    "overwritten": ("bad\rgood\b", r"bad\rgood\x08"),
    "delete": ("a\x7f", r"a\x7f"),
    "turned": ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
    "unseen": ("a\u200b\ufeff\u2060b", r"a\u200b\ufeff\u2060b"),
    "tags": ("a\U000e0041\U000e007f", r"a\U000e0041\U000e007f"),
    "many selectors": ("a\ufe0f\ufe01\U000e0100", "a\ufe0f\\ufe01\\U000e0100"),
    "surrogate": ("w\udcff.png", r"w\udcff.png"),
    "separators": ("a\u2028b\x85c", r"a\u2028b\x85c"),
}
KEPT = (
    "line\n\tindented",
    "👩‍👩‍👧 ❤️ 👍🏽 🇨🇳",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "می‌خواهم \u200fמה?\u200e",
    "٣ \u06dd \u0600",
    "nai\u0308ve Z\u0335 한국어 中文 葛\U000e0100",
)


@pytest.mark.parametrize(("text", "expected"), ATTACKS.values(), ids=ATTACKS)
def test_control_and_invisible_characters_are_escaped(text, expected):
    assert visible(text) == expected


def test_an_escape_sequence_in_pieces_is_escaped_too():
    assert "".join(map(visible, "\x1b]0;PW\x07\u202e")) == r"\x1b]0;PW\x07\u202e"


@pytest.mark.parametrize("text", KEPT)
def test_scripts_and_emoji_are_printed_as_they_are(text):
    assert visible(text) == text == harmless(text)


def test_every_control_and_format_character_is_escaped_or_known_to_be_needed():
    needed = {*"\n\t\u061c\u200c\u200d\u200e\u200f\u06dd\u070f\u08e2\U000110bd\U000110cd\u0890\u0891"}
    needed |= {chr(code) for code in range(0x600, 0x606)}
    for code in range(sys.maxunicode + 1):
        letter = chr(code)
        if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            assert (visible(letter) == letter) == (letter in needed), hex(code)


def test_a_name_cannot_look_like_a_line_of_ours():
    assert visible_line("a\nnothing is missing\t") == r"a\nnothing is missing\t"
    assert printable("OK\n\x1b[31m") == r"OK\n\x1b[31m"


def test_json_that_is_printed_is_plain_and_loses_nothing():
    value = {"\x1b]0;\x07": ["\x7f\x9b\u202e", "w\udcff", "é😀"]}
    text = visible_json(value)
    assert text.isascii() and text.replace("\n", "").isprintable() and json.loads(text) == value


def test_answer_in_a_file_keeps_characters_that_terminals_ignore():
    assert harmless("a\x10\u200b\x1b[31m\x9b\u202e") == "a\x10\u200b\\x1b[31m\\x9b\\u202e"


def test_notices_are_made_visible_for_streams_and_for_handlers(capsys, monkeypatch, caplog):
    with caplog.at_level(logging.WARNING):
        notice("\x1b[31mred")
    assert [record.getMessage() for record in caplog.records] == [r"\x1b[31mred"]
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    notice("\x1b[31mred")
    assert capsys.readouterr().err == "paddlemix: \\x1b[31mred\n"


def test_a_notice_after_the_import_of_paddle_is_the_plain_line_that_it_is_before():
    code = "from paddlemix.terminal.log import notice\nnotice('one')\nimport paddle\nnotice('two')\n"
    code += "import logging; logging.getLogger().addHandler(logging.StreamHandler())\nnotice('three')"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT)
    lines = done.stderr.splitlines()
    assert lines[:2] == ["paddlemix: one", "paddlemix: two"], done.stderr
    assert "three" in lines[2:]  # through the program's own handler


def test_unexpected_errors_are_made_visible_too(capsys):
    streams._show_error(KeyError, KeyError("k"), None)
    streams._show_error(RuntimeError, RuntimeError("\x1b[31mred"), None)
    print_error(ValueError("\x1b" + "x" * 20_000))
    errors = capsys.readouterr().err
    assert r"RuntimeError: \x1b[31mred" in errors and r"error: \x1bxxx" in errors and len(errors) < 9000


def test_sizes_have_the_unit_of_which_there_is_one():
    sizes = {0: "0 B", 999: "999 B", 12_345: "12.3 kB", 5 * 10**6: "5.0 MB", 10**11: "100.0 GB"}
    assert {number: in_bytes(number) for number in sizes} == sizes


def test_one_thing_has_no_plural():
    assert [plural(count, "file") for count in (0, 1, 1200)] == ["0 files", "1 file", "1,200 files"]


def test_memory_is_reported_in_units_of_1024():
    assert in_memory(3 << 30) == "3.0 GiB" and in_memory(1000) == "1000 B"
