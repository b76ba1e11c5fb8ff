"""Overlap of boxes, OCRBench, HallusionBench, and the rules of custom tasks."""

from __future__ import annotations

import pytest

from paddlemix.evaluate.scores import boxes, custom, hallusion, ocrbench


def test_overlap_is_symmetric_and_between_0_and_1():
    first, second = (0.0, 0.0, 0.5, 0.5), (0.25, 0.25, 0.75, 0.75)
    assert boxes.overlap(first, second) == boxes.overlap(second, first) == pytest.approx(0.0625 / 0.4375)
    assert boxes.overlap(first, first) == 1
    assert boxes.overlap(first, (0.6, 0.6, 0.9, 0.9)) == 0
    assert boxes.overlap((0.1, 0.1, 0.1, 0.1), (0.1, 0.1, 0.1, 0.1)) == 0


@pytest.mark.parametrize(
    ("text", "strict", "lmms"),
    [
        ("[0.1, 0.2, 0.3, 0.4]", True, True),
        ("It is at [0.1,0.2,0.3,0.4].", True, True),
        ("[0.1, 0.2, 0.3, 0.4] or [0.1, 0.2, 0.3, 0.5]", False, True),
        ("[0.3, 0.2, 0.1, 0.4]", False, True),
        ("[10, 20, 30, 40]", False, True),
        ("0.1, 0.2, 0.3, 0.4", False, False),
        ("[0.1, 0.2, 0.3]", False, False),
    ],
)
def test_strict_box_lies_in_the_image_and_is_the_only_one(text, strict, lmms):
    assert (boxes.parse(text, "strict") is not None, boxes.parse(text, "lmms") is not None) == (strict, lmms)


def test_accuracy_of_boxes_counts_overlaps_of_one_half():
    right = (0.0, 0.0, 0.4, 0.4)
    texts = ["[0, 0, 0.4, 0.4]", "[0.0, 0.0, 0.4, 0.2]", "[0, 0, 0.4, 0.19]", "there"]
    scores = boxes.score([{"prediction": text, "box": right} for text in texts])
    assert scores.value() == 0.5 and scores.num_failed == 1
    assert scores.value("mean_overlap") == pytest.approx((1 + 0.5 + 0.475) / 4)


def test_formulas_of_ocrbench_keep_case_and_lose_spaces():
    formula = {"prediction": "X ^ 2", "answers": ["x^2"], "category": ocrbench.FORMULAS}
    assert ocrbench.judge(formula).credit == 0
    assert ocrbench.judge({**formula, "prediction": "x ^ 2 + 1"}).credit == 1


def test_full_width_characters_of_ocrbench_are_equal_only_under_lmms():
    item = {"prediction": "ＡＢＣ１２", "answers": ["abc12"], "category": "Doc-oriented VQA"}
    assert [ocrbench.judge(item, rule).credit for rule in ocrbench.RULES] == [1, 0]


def test_ocrbench_adds_the_six_categories_of_text_recognition():
    items = [
        {"prediction": "a", "answers": ["a"], "category": name} for name in (*ocrbench.RECOGNITION, "Doc-oriented VQA")
    ]
    scores = ocrbench.score(items)
    assert (scores.value(), scores.value("Text Recognition")) == (7, 6)


def test_hallusion_refuses_an_index_without_six_parts():
    item = {"index": "VD_1", "prediction": "Yes", "answer": "Yes", "category": "VD", "l2-category": "f"}
    with pytest.raises(ValueError, match="expected six parts"):
        hallusion.score([item])


@pytest.mark.parametrize(
    ("rule", "text", "answers", "credit"),
    [
        ("exact", " Seven. ", ["seven"], 1),
        ("exact", "一个红色的圆形。", ["一个红色的圆形"], 1),
        ("contains", "这是红色的圆形", ["红色。"], 1),
        ("exact", "seven dogs", ["seven"], 0),
        ("contains", "There are seven dogs.", ["seven"], 1),
        ("contains", "17", ["7"], 0),
        ("contains", "图中有七只狗", ["七只"], 1),
        ("regex", "total: 42 kg", [r"total: (\d+)"], 1),
        ("regex", "total: none", [r"total: (\d+)"], 0),
        ("anls", "sevem", ["seven"], 0.8),
        ("anls", "红色的圆形。", ["红色的圆形"], 1),
        ("anls", "seven.", ["seven"], 5 / 6),
    ],
)
def test_rules_of_custom_tasks(rule, text, answers, credit):
    assert custom.judge({"prediction": text, "answers": answers}, rule).credit == pytest.approx(credit)


def test_regex_keeps_what_its_group_found_and_fails_without_a_match():
    item = {"prediction": "total: 42", "answers": [r"total: (\d+)"]}
    assert custom.judge(item, "regex").parsed == "42"
    assert custom.judge({**item, "prediction": "no"}, "regex").is_failed


def test_letter_of_a_custom_task_is_the_strict_one():
    item = {"prediction": "(B)", "answers": ["B"], "options": {"A": "x", "B": "y"}}
    assert custom.judge(item, "letter").credit == 1
    assert custom.judge({**item, "prediction": "(B) or (A)"}, "letter").is_failed


@pytest.mark.parametrize(("text", "credit"), [("A", 0), ("B", 1), ("a dog.", 1)])
def test_letter_takes_the_text_of_an_option_as_the_right_answer(text, credit):
    item = {"prediction": text, "answers": ["a dog"], "options": {"A": "a cat", "B": "A dog."}}
    assert custom.judge(item, "letter").credit == credit


@pytest.mark.parametrize(
    ("answer", "options", "text"),
    [
        (
            "fish",
            {"A": "cat", "B": "dog"},
            "'fish' is neither the letter nor the text of an option: expected one of A, B",
        ),
        ("cat", {"A": "cat", "B": "cat"}, "'cat' is the text of 2 options"),
        ("A", {}, "needs 'options', and the question has none"),
    ],
)
def test_answer_that_is_no_option_is_refused_under_letter(answer, options, text):
    with pytest.raises(ValueError, match=text):
        custom.check({"answers": [answer], "options": options}, "letter")


def test_a_rule_that_takes_more_answers_than_exact_is_named_with_their_number():
    texts = ["seven", "There are seven.", "It is seven", "eight"]
    (note,) = custom.score([{"prediction": text, "answers": ["seven"]} for text in texts]).notes
    assert note.startswith("2 of 4 answers are wrong here and right with `--rule contains`, which looks for")
    item = {"prediction": "(B)", "answers": ["dog"], "options": {"A": "cat", "B": "dog"}}
    assert "1 of 1 answers are wrong here and right with `--rule letter`" in custom.score([item]).notes[0]
    assert custom.score([{"prediction": "seven", "answers": ["seven"]}]).notes == ()


def test_bad_pattern_and_missing_references_are_refused():
    with pytest.raises(ValueError, match="is not a regular expression"):
        custom.judge({"prediction": "x", "answers": ["("]}, "regex")
    with pytest.raises(ValueError, match="no reference answers"):
        custom.judge({"prediction": "x", "answers": []})


def test_empty_answer_of_a_custom_task_is_failed():
    assert custom.score([{"prediction": " ", "answers": ["x"]}]).num_failed == 1
