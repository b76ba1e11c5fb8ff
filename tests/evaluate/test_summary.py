"""The table for the terminal fits and says why a score is missing; scores.json has what the scorer returned."""

from __future__ import annotations

import dataclasses
import json

import pytest
from report_results import asked, custom_result, pope_result, result_of

from paddlemix.evaluate.item import Loaded, Problem
from paddlemix.evaluate.scores.result import Figure, Scores
from paddlemix.evaluate.scoring import score_task
from paddlemix.evaluate.summary import MAX_WIDTH, scores_json, summary_lines
from paddlemix.evaluate.tasks import TASKS, task_of
from paddlemix.evaluate.units import printed, share, top_text
from paddlemix.terminal.columns import width_of


def test_table_has_a_row_a_task_with_aligned_numbers():
    head, rule, first, second, *_ = summary_lines([custom_result(8, 5), pope_result()])
    assert first.split() == ["custom", "accuracy", "62.5%", "8", "0", "0", "exact"]
    assert second.split() == ["pope", "f1", "50.0%", "3", "1", "1", "strict"]
    assert head.index("score") + 5 == first.index("62.5%") + 5 == second.index("50.0%") + 5
    assert set(rule) == {"-", " "}


def test_every_line_fits_whatever_the_names_are():
    result = custom_result(3, 1)
    task = dataclasses.replace(result.task, name="a_task_with_a_very_long_name_" * 3)
    chinese = dataclasses.replace(result.task, name="问题" * 30)
    results = [
        dataclasses.replace(result, task=task, rule="a_rule_" * 9, notes=("a note " * 30, "注" * 99), judge="j" * 200),
        dataclasses.replace(result, task=chinese, scores=None, num_questions=10**9),
        *(dataclasses.replace(result, task=TASKS[name]) for name in TASKS),
    ]
    lines = summary_lines(results)
    assert max(map(width_of, lines)) <= MAX_WIDTH
    assert any("…" in line for line in lines)


def test_names_of_all_tasks_are_whole():
    lines = summary_lines([dataclasses.replace(custom_result(2, 1), task=TASKS[name]) for name in TASKS])
    assert set(TASKS) <= {line.split()[0] for line in lines}


def test_task_without_right_answers_has_a_dash_and_the_reason():
    questions = [asked("1", "Which?", options={"A": "x"}, index="1")]
    result = result_of("mmbench_en_test", questions, ["A"])
    row, *below = summary_lines([result])[2:]
    assert row.split()[:3] == ["mmbench_en_test", "–", "–"]
    assert "no score: 1 of 1 questions have no right answer in the files" in " ".join(below)


def test_figure_that_is_not_defined_is_a_dash_with_its_name():
    questions = [asked("1", "Is there?", answer="no", category="random")]
    result = result_of("pope", questions, ["No"])
    row, below, *_ = summary_lines([result])[2:]
    assert row.split()[:3] == ["pope", "f1", "–"] and "f1 is not defined" in below
    assert scores_json([result])["pope"]["value"] is None


def test_notes_and_the_number_of_questions_in_the_files_are_said():
    result = score_task(task_of("custom"), Loaded(()), {}, num_questions=8910)
    assert "  only 0 of 8,910 questions of the files were asked" in summary_lines([result])


def test_control_characters_of_foreign_names_are_not_printed():
    result = dataclasses.replace(custom_result(1, 1), judge="\x1b[31mred")
    assert "  judge: \\x1b[31mred" in summary_lines([result])


@pytest.mark.parametrize(
    ("main", "name", "value", "text", "top", "part"),
    [
        ("accuracy", "accuracy", 0.625, "62.5%", "", 0.625),
        ("perception", "perception", 1510.72, "1,510.7", "of 2,000", 0.75536),
        ("perception", "OCR", 140.0, "140.0", "of 200", 0.7),
        ("score", "score", 612, "612", "of 1,000", 0.612),
        ("ratio", "ratio/conv", 101.5, "101.5%", "", 1.0),
        ("total", "rec", 36.1, "36.1%", "", 0.361),
        ("CIDEr", "CIDEr", 1.104, "110.4", "", None),
        ("CIDEr", "Bleu_4", 0.32, "32.0%", "", 0.32),
        ("f1", "f1/random", None, "–", "", None),
    ],
)
def test_figures_are_printed_as_papers_do(main, name, value, text, top, part):
    figures = {main: Figure(value, 1000), name: Figure(value, 1000)}
    scores = Scores(main, figures, 1000)
    assert printed(scores, name) == text and top_text(scores, name) == top
    assert share(scores, name) == (part if part is None else pytest.approx(part))


def test_scores_json_has_the_figures_of_the_scorer_and_what_they_rest_on():
    problems = tuple(Problem("file", f"row {number}", str(number)) for number in range(30))
    result = dataclasses.replace(pope_result(problems), judge="j")
    found = json.loads(json.dumps(scores_json([result]), allow_nan=False))["pope"]
    assert found["main"] == "f1" and found["unit"] == "fraction" and found["value"] == result.scores.value()
    assert found["figures"] == {name: vars(one) for name, one in result.scores.figures.items()}
    assert (found["rule"], found["style"], found["judge"], found["ocr_tokens"]) == ("strict", "llava", "j", "–")
    assert [found[f"num_{name}"] for name in ("questions", "answers", "items", "failed")] == [4, 3, 3, 1]
    assert found["problems"]["count"] == 31 and len(found["problems"]["first"]) == 20
    assert found["problems"]["first"][7] == {"where": "file", "id": "7", "text": "row 7"}
    assert any("have no answer" in note for note in found["notes"])


@pytest.mark.parametrize(("has_ocr", "text"), [(True, "yes"), (False, "no"), (None, "–")])
def test_scores_json_says_whether_prompts_have_ocr_tokens(has_ocr, text):
    result = result_of("textvqa", [asked("1", "Which?", has_ocr=has_ocr, answers=["a"] * 10)], ["a"])
    assert scores_json([result])["textvqa"]["ocr_tokens"] == text


def test_task_without_scores_has_no_figures_in_scores_json():
    found = scores_json([score_task(task_of("custom"), Loaded(()), {})])["custom"]
    assert found["main"] is found["value"] is found["unit"] is None and found["figures"] == {}
