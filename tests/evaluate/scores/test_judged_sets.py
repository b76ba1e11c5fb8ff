"""Answers that a judge graded: parsing of reviews and grades, and the figures made of them."""

from __future__ import annotations

import pytest

from paddlemix.evaluate.scores import gpt_review, mmvet


@pytest.mark.parametrize(
    "review",
    [
        "8 9",
        "8, 9",
        " 8 9 ",
        "8\t9",
        "8;9",
        "\n8 9\nBecause",
        "**8 9**",
        "[8, 9]",
        "Scores: 8 9",
        "8/10, 9/10",
        "8 and 9.",
    ],
)
def test_strict_reads_two_numbers_in_the_forms_that_judges_write(review):
    assert gpt_review.parse(review) == (8, 9)


@pytest.mark.parametrize(
    "review",
    ["", "8", "8 9 10", "Assistant 1: 8", "Assistant 1: 8, Assistant 2: 9", "80 90", "-1 -1", "ten nine", "8-9"],
)
def test_strict_reads_nothing_where_the_points_are_not_plain(review):
    assert gpt_review.parse(review) is None


def test_failed_reviews_are_left_out_and_counted_but_enter_under_llava():
    items = [{"review": "8 9", "category": "conv"}, {"review": "sorry", "category": "conv"}]
    strict, llava = gpt_review.score(items), gpt_review.score(items, "llava")
    assert (strict.value(), strict.figures["ratio"].count, strict.num_failed) == (112.5, 1, 1)
    assert (llava.value("reference"), llava.value("model"), llava.num_failed) == (35, 40, 1)


def test_ratio_by_category_and_ignored_questions():
    rows = [
        {"question_id": 1, "category": "conv", "tuple": [8, 4]},
        {"question_id": 2, "category": "detail", "tuple": [8, 8]},
    ]
    assert gpt_review.lines(rows, "x", ignored=[1])[1] == "all 100.0 80.0 80.0"
    assert gpt_review.lines_v1(rows, "x") == [
        "GPT-4 vs. x",
        "all [8.0, 6.0] 75.0",
        "conv [8.0, 4.0] 50.0",
        "detail [8.0, 8.0] 100.0",
        "=" * 33,
    ]


def test_reference_without_points_is_refused():
    with pytest.raises(ValueError, match="0 points on average"):
        gpt_review.lines([{"tuple": [0, 5]}], "x")
    assert gpt_review.score([{"review": "0 5", "category": "conv"}]).value() is None


@pytest.mark.parametrize(
    ("text", "grades"),
    [
        ("0.7", (0.7, 0.7, 0.7)),
        ("1.0", (1, 1, 1)),
        ("0.5 because", (0.5, None, None)),
        ("1.", (1, 1, 1)),
        (".5", (0.5, None, 0.5)),
        ("1.2", (None, None, None)),
        ("-0.1", (None, None, None)),
        ("nan", (None, None, None)),
        ("", (None, None, None)),
    ],
)
def test_grade_is_a_number_from_0_to_1(text, grades):
    assert tuple(mmvet.parse(text, rule) for rule in ("official", "strict", "vlmevalkit")) == grades


def test_capabilities_are_means_over_the_items_that_need_them():
    items = [
        {"grades": ["1.0"], "capabilities": ["ocr", "math"]},
        {"grades": ["0.5", "0.0"], "capabilities": ["ocr"]},
        {"grades": ["??"], "capabilities": ["rec"]},
    ]
    scores = mmvet.score(items)
    values = {name: figure.value for name, figure in scores.figures.items() if figure.count}
    expected = {"total": 125 / 3, "ocr": 62.5, "math": 100, "rec": 0, "set/ocr+math": 100, "set/ocr": 25, "set/rec": 0}
    assert values == pytest.approx(expected)
    assert scores.num_failed == 1 and scores.figures["know"].value is None


def test_unknown_capability_is_refused():
    with pytest.raises(ValueError, match="Unknown capabilities of MM-Vet: smell"):
        mmvet.score([{"grades": ["1"], "capabilities": ["smell"]}])
