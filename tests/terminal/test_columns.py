"""Texts fit columns of a terminal, where Chinese characters take two places."""

from __future__ import annotations

import pytest

from paddlemix.terminal.columns import padded, shortened, width_of, wrapped


@pytest.mark.parametrize(
    ("text", "width"), [("", 0), ("abc", 3), ("猫", 2), ("e\u0301", 1), ("ｆ", 2), ("a\u200db", 2)]
)
def test_width_counts_wide_and_combining_characters(text, width):
    assert width_of(text) == width


@pytest.mark.parametrize(
    ("text", "short"), [("abcde", "abcde"), ("abcdef", "abcd…"), ("猫猫猫", "猫猫…"), ("a猫猫猫", "a猫…")]
)
def test_shortened_text_fits_and_ends_with_an_ellipsis(text, short):
    assert shortened(text, 5) == short and width_of(short) <= 5


def test_padded_texts_have_the_same_width():
    assert padded("猫", 4) == "猫  " and padded("ab", 4, is_right=True) == "  ab"


def test_wrapped_lines_fit_and_lose_no_word():
    text = "one two " + "猫" * 9 + " three"
    lines = wrapped(text, 8)
    assert all(width_of(line) <= 8 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrapped("", 8) == []
