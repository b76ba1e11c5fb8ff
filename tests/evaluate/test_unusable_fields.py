"""Fields that a scorer cannot use cost their own question; the others have their score, and the question is named."""

from __future__ import annotations

import pytest

from paddlemix.evaluate.item import Loaded, Question
from paddlemix.evaluate.report.selection import categories_of
from paddlemix.evaluate.results import Saved
from paddlemix.evaluate.scoring import UNSCORED, score_task
from paddlemix.evaluate.tasks import TASKS

PERSON = {"capabilities": ["rec"], "answer": "a"}
SCIENCE = {"answer": 0, "choices": ["x", "y"], "grade": "grade2"}


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("textvqa", {"answers": ["a"] * 10}, {"answers": ["a"] * 9}),
        ("vqav2", {"answers": ["a"] * 10}, {"answers": 5}),
        ("scienceqa", SCIENCE, {**SCIENCE, "grade": "first"}),
        ("scienceqa", SCIENCE, {**SCIENCE, "choices": None}),
        ("mmvet", PERSON, {**PERSON, "capabilities": ["smell"]}),
        ("coco_captions", {"references": ["a man"]}, {"references": 3}),
        ("pope", {"answer": "yes", "category": "random"}, {"answer": 3, "category": "random"}),
    ],
)
def test_unusable_fields_cost_their_own_question(name, good, bad):
    questions = tuple(Question(name, ("?",), fields=fields) for name, fields in (("1", good), ("2", bad)))
    saved = {one.id: Saved("A", judgement=("0.5",)) for one in questions}
    result = score_task(TASKS[name], Loaded(questions), saved)
    alone = score_task(TASKS[name], Loaded(questions[:1]), saved)
    assert result.scores == alone.scores and result.scores.num_items == 1
    assert [one.id for one in result.problems] == ["2"] and result.problems[0].text.startswith(UNSCORED)
    assert result.answered[1].output == "A" and result.answered[1].credit is None


@pytest.mark.parametrize(
    ("name", "bad", "reason"),
    [
        ("scienceqa", {"answer": 0, "grade": "grade2"}, "its file does not give 'choices'"),
        ("pope", {"answer": 3, "category": "random"}, "Found the label 3, expected yes or no."),
        ("vqav2", {"answers": 5}, "one of its fields has another type or form than in the benchmark's own files"),
        ("scienceqa", {**SCIENCE, "grade": "first"}, "one of its fields has another type or form"),
    ],
)
def test_the_reason_is_in_words(name, bad, reason):
    result = score_task(TASKS[name], Loaded((Question("1", ("?",), fields=bad),)), {"1": Saved("A")})
    (problem,) = result.problems
    assert problem.text.startswith(f"{UNSCORED}: {reason}") and "Error" not in problem.text


@pytest.mark.parametrize(
    ("value", "names"), [("ocr", ("ocr",)), (5, ("5",)), (["a", 2], ("a", "2")), (("a", "b"), ("a", "b")), ({}, ())]
)
def test_category_of_any_type_is_shown_as_text(value, names):
    assert categories_of(Question("1", ("?",), fields={"category": value})) == names
