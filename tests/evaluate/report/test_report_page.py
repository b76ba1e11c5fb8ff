"""The report says what was run, the figures and their problems in one file, and obeys nothing in foreign texts."""

from __future__ import annotations

import dataclasses
import re

import pytest
from html_tree import Element, tree
from report_results import asked, custom_result, drawn, pope_result, result_of

from paddlemix.evaluate.item import Loaded, Problem
from paddlemix.evaluate.report import write_report
from paddlemix.evaluate.results import Answered
from paddlemix.evaluate.scores.result import Figure, Scores
from paddlemix.evaluate.scoring import score_task
from paddlemix.evaluate.tasks import task_of
from paddlemix.output import OutputError

FACTS = [("model", "llava"), ("data", "custom.jsonl\nsha256 1234")]
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&amp;\u202egnp\x1b]0;x\x07\ud800\x00</dd></article>"


def page_of(folder, results, facts=FACTS, **settings) -> Element:
    """Write a report and return its tree."""
    write_report(folder / "report.html", results, facts, **settings)
    return tree((folder / "report.html").read_text(encoding="utf-8"))


def row_of(table: Element, name: str) -> list[str]:
    """Return the texts of the first row that starts with a name."""
    rows = [[cell.text.strip() for cell in row.parts if isinstance(cell, Element)] for row in table.find("tr")]
    return next(row for row in rows if row[0] == name)


def test_scores_have_the_figures_and_what_they_rest_on(tmp_path):
    page = page_of(tmp_path, [custom_result(8, 5), dataclasses.replace(pope_result(), judge="a judge")])
    (table,) = page.find("table", class_="scores")
    assert row_of(table, "custom") == ["custom", "62.5%", "", "accuracy", "8", "0", "0", "exact", "llava", "–", "–"]
    assert row_of(table, "pope") == ["pope", "50.0%", "", "f1", "3", "1", "1", "strict", "llava", "a judge", "–"]


def test_facts_of_the_run_are_listed_and_the_model_is_in_the_title(tmp_path):
    page = page_of(tmp_path, [custom_result(1, 1)])
    assert page.find("title")[0].text == page.find("h1")[0].text == "Evaluation of llava"
    (facts,) = page.find("dl", class_="facts")
    assert [part.text for part in facts.parts] == ["model", "llava", "data", "custom.jsonl\nsha256 1234"]


def test_task_without_a_score_has_a_dash_and_the_reason(tmp_path):
    page = page_of(tmp_path, [score_task(task_of("custom"), Loaded(()), {})])
    assert row_of(page.find("table", class_="scores")[0], "custom")[1] == "–"
    assert "custom has no score: there is no answer that can be scored." in page.text


def bars(page: Element, title: str) -> list[tuple[str, str, str]]:
    """Return label, value and width of the bars of a chart."""
    (chart,) = [one for one in page.find("figure") if one.find("figcaption")[0].text.startswith(title)]
    rows = [row for body in chart.find("tbody") for row in body.find("tr")]
    widths = [[bar.attributes["style"] for bar in row.find("i")] for row in rows]
    texts = [[cell.text.strip() for cell in row.parts] for row in rows]
    return [(cells[0], cells[2], *width) for cells, width in zip(texts, widths, strict=True)]


def test_figures_by_category_are_bars_with_values_the_best_first(tmp_path):
    figures = {
        "accuracy": 0.5,
        "accuracy/subject/Art": 0.25,
        "accuracy/subject/Law_2": 0.75,
        "accuracy/form/open": None,
    }
    scores = Scores("accuracy", {name: Figure(value, 4) for name, value in figures.items()}, 4)
    page = page_of(tmp_path, [dataclasses.replace(custom_result(1, 1), scores=scores)])
    assert bars(page, "accuracy by subject") == [("Law_2", "75.0%", "width:75.0%"), ("Art", "25.0%", "width:25.0%")]
    assert bars(page, "accuracy by form") == [("open", "–")]
    captions = [one.text for one in page.find("figcaption")]
    assert captions == ["accuracy by subject 0 to 100%", "accuracy by form 0 to 100%"]  # not the main figure alone


def test_points_are_bars_of_their_own_maximum(tmp_path):
    row = {"answer": "Yes", "category": "existence", "image": "x"}
    page = page_of(tmp_path, [result_of("mme", [asked("1", "?", **row), asked("2", "?", **row)], ["Yes", "No"])])
    assert bars(page, "all figures")[0] == ("perception", "50.0 of 2,000", "width:2.5%")
    assert bars(page, "all figures")[-1] == ("existence", "50.0 of 200", "width:25.0%")


def test_rest_of_a_long_chart_is_folded_and_complete(tmp_path):
    names = {f"accuracy/c{number:02}": Figure(number / 100, 1) for number in range(65)}
    scores = Scores("accuracy", {"accuracy": Figure(0.5, 65), **names}, 65)
    page = page_of(tmp_path, [dataclasses.replace(custom_result(1, 1), scores=scores)])
    assert [label for label, *_ in bars(page, "accuracy by category")] == [f"c{64 - number:02}" for number in range(65)]
    assert "45 more, lower ones" in page.text


def test_published_figures_stand_below_those_of_the_run(tmp_path):
    page = page_of(tmp_path, [pope_result()])
    (table,) = page.find("table", class_="published")
    assert row_of(table, "this run")[1:4:2] == ["f1", "50.0%"]
    assert row_of(table, "LLaVA-1.5 7B")[3:5] == ["85.9%", "LLaVA, docs/MODEL_ZOO.md"]
    assert page_of(tmp_path, [custom_result(1, 1)]).find("table", class_="published") == []


def test_problems_are_named_up_to_a_limit_and_counted(tmp_path):
    problems = tuple(Problem("file.json", f"row {number} is broken") for number in range(149))
    page = page_of(tmp_path, [pope_result(problems)])
    (details,) = page.find("details", class_="problems")
    texts = [one.text for one in details.find("li")]
    assert details.find("summary")[0].text == "150 problems; no score has them"
    assert texts[0] == "file.json: row 0 is broken" and texts[-1] == "and 50 more" and len(texts) == 101


def hostile_result():
    fields = {"answers": [HOSTILE], "category": HOSTILE}
    result = result_of("custom", [asked(HOSTILE, HOSTILE, drawn(), **fields)], [HOSTILE], style=HOSTILE, judge=HOSTILE)
    answered = (Answered(**{**vars(result.answered[0]), "judgement": (HOSTILE,), "parsed": HOSTILE}),)
    problems = (Problem(HOSTILE, HOSTILE, HOSTILE),)
    return dataclasses.replace(result, answered=answered, problems=problems, notes=(HOSTILE,))


def test_nothing_in_foreign_texts_is_obeyed(tmp_path):
    page = page_of(tmp_path, [hostile_result()], [("model", HOSTILE), (HOSTILE, HOSTILE)])
    tags = [one.tag for one in page.walk()]
    assert tags.count("script") == 1 and "img" not in tags
    attributes = {name for one in page.walk() for name in one.attributes}
    assert not any(name.startswith("on") for name in attributes)
    (item,) = page.find("article")
    shown = HOSTILE.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b").replace("\x07", "\\x07")
    shown = shown.replace("\ud800", "\\ud800").replace("\x00", "\\x00")
    assert item.attributes["data-category"] == shown and item.find("h4")[0].text == shown
    texts = [one.text for one in item.find("dd")]
    assert texts == [f"<image>\n{shown}", *[shown] * 4]
    assert all(one.attributes["dir"] == "auto" for one in item.find("dd"))


def test_page_has_no_character_that_reorders_or_hides_text(tmp_path):
    write_report(tmp_path / "report.html", [hostile_result()], [("model", HOSTILE)])
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", (tmp_path / "report.html").read_text()
    )


def test_page_needs_no_network(tmp_path):
    page = page_of(tmp_path, [custom_result(3, 1, images=(drawn(),)), pope_result()])
    links = [value for one in page.walk() for name, value in one.attributes.items() if name in ("href", "src")]
    assert links and all(link.startswith(("#", "data:image/jpeg;base64,")) for link in links)
    assert not re.search(r"https?:|@import|url\(", page.find("style")[0].text + page.find("script")[0].text)


def test_every_link_leads_somewhere_and_ids_are_unique(tmp_path):
    page = page_of(tmp_path, [custom_result(3, 1, images=(drawn(),)), pope_result()])
    ids = [one.attributes["id"] for one in page.walk() if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    assert {one.attributes["href"][1:] for one in [*page.find("a"), *page.find("use")]} <= set(ids)


def test_same_results_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_report(tmp_path / name, [custom_result(9, 4, images=(drawn(), drawn("blue"))), pope_result()], FACTS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_report_without_tasks_is_a_page(tmp_path):
    assert page_of(tmp_path, [], []).find("title")[0].text == "Evaluation"


def test_limit_and_path_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValueError, match="max_items is -1, expected 0 or more"):
        write_report(tmp_path / "report.html", [], [], max_items=-1)
    with pytest.raises(OutputError):
        write_report(tmp_path, [], [])
    assert list(tmp_path.iterdir()) == []
