"""Published figures name tasks and figures that exist, and stand in the units of their tables."""

from __future__ import annotations

import pytest
from report_results import asked, result_of

from paddlemix.evaluate.published import every_published, published_for
from paddlemix.evaluate.tasks import TASKS

TOPS = {"perception": 2000, "cognition": 800, "total": 2800}


@pytest.mark.parametrize("one", every_published(), ids=lambda one: f"{one.task}-{one.model}-{one.source}")
def test_figure_belongs_to_a_task_and_is_possible(one):
    assert one.task in TASKS and one.source and one.model
    assert 0 < one.value <= (TOPS[one.figure] if one.task == "mme" else 100)


def test_a_model_has_one_figure_of_each_source():
    keys = [(one.task, one.figure, one.model, one.source, one.note) for one in every_published()]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("task", "figure", "model", "values"),
    [
        ("pope", "f1", "LLaVA-1.5 13B", [85.9]),
        ("mme", "perception", "LLaVA-1.5 7B", [1510.7]),
        ("mmbench_en_dev", "circular", "LLaVA-1.5 7B", [64.3, 63.0]),
        ("textvqa", "accuracy", "LLaVA-1.5 7B", [58.2, 46.1]),
        ("ccbench", "circular", "LLaVA-InternLM-7B (XTuner)", [34.6, 37.3]),
        ("scienceqa", "accuracy/IMG", "LLaVA-1.5 13B", [71.6, 71.64]),
    ],
)
def test_figures_of_the_sources(task, figure, model, values):
    assert [one.value for one in published_for(task, [figure]) if one.model == model] == values


def test_only_figures_that_the_run_has_are_listed():
    assert published_for("mme", ["perception"]) and {one.figure for one in published_for("mme", ["total"])} == {"total"}
    assert published_for("custom", ["accuracy"]) == []


def test_names_of_figures_are_those_of_the_scorers():
    questions = [
        asked("1", "?", answer="yes", category="random"),
        asked("2", "?", answer="no", category="popular"),
        asked("3", "?", answer="no", category="adversarial"),
    ]
    figures = result_of("pope", questions, ["Yes", "No", "No"]).scores.figures
    assert {one.figure for one in every_published() if one.task == "pope"} <= set(figures)
    row = {"answer": "Yes", "category": "existence", "image": "x"}
    mme = result_of("mme", [asked("1", "?", **row), asked("2", "?", **row)], ["Yes", "No"])
    assert {one.figure for one in every_published() if one.task == "mme"} <= set(mme.scores.figures)
