"""Details of rules that decide single answers: weights of forms, tails of phrases, names of figures, odd labels."""

from __future__ import annotations

import pytest

from paddlemix.evaluate.scores import anls, boxes, captions, custom, hallusion, letters, mmmu, mmvet, pope, scienceqa
from paddlemix.evaluate.scores.result import Verdict, grouped, mean, mean_credit

OPTIONS = dict.fromkeys("ABCD", "x")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("x (A) B. x", "A"),
        ("x A. B: x", "A"),
        ("x A: B) x", "A"),
        ("x A) B x", "A"),
        ("x A BC x", "C"),
        ("x A B x", "B"),
        ("x (A) (B) x", "B"),
        ("I pick C (B) x", "B"),
        ("(A) x but I pick xB", "B"),
        ("(A) x B", "B"),
        ("A x B", "A"),
        ("x (A) xB", "A"),
        ("xAx", "A"),
        ("xx", None),
    ],
)
def test_lmms_extract_weighs_the_forms_of_a_letter(text, letter):
    assert letters.parse(text, OPTIONS, "lmms_extract") == letter


@pytest.mark.parametrize(
    ("text", "candidates"),
    [
        ("x = 3\ny = 4", [4.0]),
        ("so it is 7", [7.0]),
        ("it is so", ["so"]),
        ("is 5 so 66", [66.0]),
        ("the result is it", ["it"]),
        (" No. ", ["no"]),
        ("is a\nis bc", [" a", "a ", "bc"]),
    ],
)
def test_mmmu_keeps_the_shortest_text_after_an_indicator(text, candidates):
    assert mmmu.parse_open(text) == candidates


def test_mmmu_reads_option_texts_without_case_in_six_words_or_more():
    assert mmmu.parse_choice("it shows a big CAT here now", ["dog", "Cat"]) == "B"
    assert mmmu.parse_choice("it shows a CAT", ["dog", "Cat"]) is None


@pytest.mark.parametrize(("text", "letter"), [("A.", "A"), ("A", "A"), ("AB", None), ("a.", None), ("", None)])
def test_lmms_scienceqa_takes_a_letter_or_a_letter_and_a_period(text, letter):
    assert scienceqa.parse(text, ["x", "y"], "lmms") == letter


@pytest.mark.parametrize("label", ["yes", " YES", "Yes\n"])
def test_labels_may_have_any_case_and_outer_spaces(label):
    assert pope.judge({"prediction": "Yes", "answer": label}).credit == 1
    assert hallusion.judge({"prediction": "Yes", "answer": label}).credit == 1


def test_grade_may_end_with_a_line_break():
    assert [mmvet.parse("0.5\n", rule) for rule in mmvet.RULES] == [0.5] * 3


def test_overlap_of_boxes_that_are_not_square():
    assert boxes.overlap((0.1, 0.2, 0.9, 0.4), (0.1, 0.2, 0.5, 0.8)) == pytest.approx(0.08 / (0.16 + 0.24 - 0.08))


def test_rouge_l_of_single_words():
    assert captions.rouge_l(captions.Captioned(["dog"], [["dog"]])) == pytest.approx(1)
    assert captions.rouge_l(captions.Captioned([], [[]])) == 1


def test_figures_are_named_by_value_and_with_several_keys_also_by_key():
    items = [{"kind": "a", "size": 1, "right": 1.0}, {"kind": "b", "size": 1, "right": 0.0}, {"right": 1.0}]

    def judge(item):
        return Verdict("x", item["right"])

    one = mean_credit(items, judge, ("kind",)).figures
    two = mean_credit(items, judge, ("kind", "size")).figures
    assert list(one) == ["accuracy", "accuracy/a", "accuracy/b"]
    assert list(two) == ["accuracy", "accuracy/kind/a", "accuracy/kind/b", "accuracy/size/1"]
    assert one["accuracy"].count == 3 and two["accuracy/size/1"].value == 0.5


def test_main_figure_of_anls_is_called_anls():
    items = [{"prediction": "abc", "answers": ["abc"]}]
    assert anls.score(items).main == custom.score(items, "anls").main == "anls"


def test_mean_of_nothing_is_undefined_and_groups_are_sorted():
    assert mean([]).value is None and mean([]).count == 0
    assert list(grouped([{"k": "b"}, {"k": "a"}, {"k": None}, {}], "k")) == ["a", "b"]
