"""Letters of options: the strict rule never guesses, and the rules of other projects keep their quirks."""

from __future__ import annotations

import itertools
import random

import pytest

from paddlemix.evaluate.scores import letters

OPTIONS = {"A": "a cat", "B": "a big cat", "C": "7", "D": "没有"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" B\n", "B"),
        ("B.", "B"),
        ("B) a big cat", "B"),
        ("B: since it is big", "B"),
        ("A. a cat", "A"),
        ("选择（C）", "C"),
        ("The answer is (B).", "B"),
        ("[D]", "D"),
        ("D。没有", "D"),
        ("a big cat", "B"),
        ("A big cat.", "B"),
        ("there are 7 of them", "C"),
        ("图中没有猫", "D"),
    ],
)
def test_strict_reads_marked_letters_and_whole_option_texts(text, letter):
    assert letters.parse(text, OPTIONS) == letter


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "E",
        "E. none",
        "AB",
        "A.B",
        "A, B",
        "A or B",
        "(A) or (B)",
        "A. not (B)",
        "Answer",
        "A big dog",
        "17",
        "a cat and 7 dogs",
        "I do not know",
    ],
)
def test_strict_finds_nothing_where_it_would_have_to_guess(text):
    assert letters.parse(text, OPTIONS) is None


def test_strict_takes_the_longer_text_only_where_the_shorter_is_not_within_it():
    assert letters.parse("It is a big cat", OPTIONS) == "B"
    assert letters.parse("It is a big cat", {"A": "cat", "B": "a big cat"}) is None


@pytest.mark.parametrize("rule", letters.RULES)
def test_letter_alone_is_read_under_every_rule(rule):
    assert [letters.parse(letter, OPTIONS, rule) for letter in "ABCD"] == list("ABCD")


@pytest.mark.parametrize("rule", sorted(set(letters.RULES) - {"xtuner", "vlmevalkit", "lmms_mmbench"}))
def test_rule_returns_an_offered_letter_or_nothing(rule):
    drawn = random.Random(0)
    words = ["A", "B", "(C)", "D.", "E", "Z", "cat", "a big cat", "7", "answer is", ",", "\n", "or"]
    for _ in range(2000):
        text = " ".join(drawn.choices(words, k=drawn.randint(0, 6)))
        assert letters.parse(text, OPTIONS, rule) in (*OPTIONS, None)


def test_order_of_options_does_not_change_the_strict_letter():
    for text in ("B", "(C)", "a cat", "It is a big cat", "A or B", "7"):
        orders = [dict(order) for order in itertools.permutations(OPTIONS.items())]
        assert len({letters.parse(text, order) for order in orders}) == 1


@pytest.mark.parametrize(
    ("rule", "text", "letter"),
    [
        ("xtuner", "Answer: B", "A"),
        ("xtuner", "ABCD", "ABCD"),
        ("vlmevalkit", "Cannot determine the answer", letters.REFUSED),
        ("vlmevalkit", "B is my first idea about this image", None),
        ("vlmevalkit", "The answer is b, as you can see in the image", "B"),
        ("lmms_mmbench", "A is what I would say", None),
        ("lmms_mmbench", "E", "E"),
        ("lmms_extract", "Because", "B"),
        ("exact", "B.", None),
    ],
)
def test_quirks_stay_under_the_rule_that_carries_their_name(rule, text, letter):
    assert letters.parse(text, OPTIONS, rule) == letter
