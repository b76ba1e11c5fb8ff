"""Two runs are compared question by question; intervals and p-values are those of scipy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paddlemix.evaluate.compare import compare, compare_rows, interval, mcnemar

GOLDEN = json.loads((Path(__file__).resolve().parents[1] / "assets" / "comparison.json").read_text(encoding="utf-8"))


def row(output: str, credit: float | None = None, **fields) -> dict:
    found = {"prompt": "Q?", "output": output, "fields": fields}
    return found if credit is None else {**found, "credit": credit}


def rows_of(case: dict, place: int) -> dict:
    pairs = zip(case["pairs"], case["groups"], strict=True)
    return {str(n): row("x", pair[place], image=group) for n, (pair, group) in enumerate(pairs)}


@pytest.mark.parametrize("case", GOLDEN["paired"], ids=lambda case: f"{case['kind']}-{len(case['pairs'])}")
def test_difference_and_interval_are_those_of_scipy(case):
    found = compare_rows(rows_of(case, 0), rows_of(case, 1))
    assert found.difference == pytest.approx(case["difference"], abs=1e-12)
    assert found.interval == pytest.approx(case["interval"], abs=1e-9)
    assert found.num_groups == len(set(case["groups"])) and found.num_scored == len(case["pairs"])


@pytest.mark.parametrize("case", GOLDEN["mcnemar"], ids=lambda case: f"{case['wins']}-{case['losses']}")
def test_exact_test_is_scipys_binomial_test(case):
    assert mcnemar(case["wins"], case["losses"]) == pytest.approx(case["p"], rel=1e-9)


def test_only_questions_with_a_credit_in_both_runs_are_in_the_figures():
    first = {"a": row("x", 1.0), "b": row("x", 0.0), "c": row("x"), "d": row("x", 1.0), "e": {"problem": "no image"}}
    second = {"b": row("y", 1.0), "a": row("x", 1.0), "c": row("x", 1.0), "e": row("z", 1.0), "f": row("z", 0.0)}
    found = compare_rows(first, second)
    assert (found.num_scored, found.num_not_scored, found.num_only) == (2, 1, (1, 2))
    assert (found.wins, found.losses, found.means, found.difference) == (1, 0, (0.5, 1.0), 0.5)
    assert [one.id for one in found.changes] == ["b"] and found.changes[0].outputs == ("x", "y")
    assert "left out: 1 without a score in one of them, 1 answered in the first alone" in "\n".join(found.summary())


def test_comparing_the_other_way_round_mirrors_the_figures():
    case = next(case for case in GOLDEN["paired"] if case["kind"] == "vqa")
    there, back = (compare_rows(rows_of(case, one), rows_of(case, 1 - one)) for one in (0, 1))
    assert (there.wins, there.losses, there.difference) == (back.losses, back.wins, -back.difference)
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]))


def test_exact_test_is_given_for_credits_of_zero_and_one_alone():
    halves = compare_rows({"a": row("x", 0.5), "b": row("x", 1)}, {"a": row("x", 1), "b": row("x", 1)})
    assert halves.p_value is None and halves.interval is not None
    whole = compare_rows({"a": row("x", 0), "b": row("x", 1)}, {"a": row("x", 1), "b": row("x", 1)})
    assert whole.p_value == 1.0 and whole.is_significant is False


@pytest.mark.parametrize(
    ("wins", "losses", "text"),
    [
        (6, 0, "significant: the second run is better"),
        (0, 6, "significant: the second run is worse"),
        (5, 0, "not sig"),
    ],
)
def test_verdict_is_said_in_words(wins, losses, text):
    changed = [(0.0, 1.0)] * wins + [(1.0, 0.0)] * losses + [(1.0, 1.0)] * 40
    first, second = ({str(n): row("x", pair[place]) for n, pair in enumerate(changed)} for place in (0, 1))
    assert any(line.startswith(text) for line in compare_rows(first, second).summary())


def test_rotations_of_a_question_are_one_group_and_the_interval_decides():
    first = {str(n + r): row("x", 0.0, index=str(n + r)) for n in range(3) for r in (0, 1_000_000)}
    second = {name: row("y", 1.0, index=name) for name in first}
    found = compare_rows(first, second)
    assert found.num_groups == 3 and found.interval == (1.0, 1.0) and found.is_significant
    assert any("rotations of one question" in line for line in found.summary())


def test_runs_without_common_scores_give_no_figures_and_no_error():
    for first, second in (({}, {}), ({"a": row("x")}, {"a": row("y")}), ({"a": row("x", 1)}, {"a": row("y", 1)})):
        found = compare_rows(first, second)
        assert found.interval is None
        assert found.summary()
    assert interval([]) is None and "nothing can be said" in compare_rows({}, {}).verdict()


def test_changed_credits_come_first_and_texts_cannot_control_the_terminal():
    first = {"a": row("one\n\x1b[2J", 1), "b": row("x" * 400, 1), "c": row("same", 0)}
    second = {"a": row("two", 1), "b": row("y", 0), "c": row("same", 0)}
    lines = list(compare_rows(first, second).changed(max_changes=1))
    text = "\n".join(lines)
    assert "b: Q?" in text and "a: Q?" not in text and "... (400 characters)" in text and "and 1 more" in text
    assert "\x1b" not in "\n".join(compare_rows(first, second).changed())


def test_files_are_read_with_broken_and_double_lines_named(tmp_path):
    paths = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    line = json.dumps({"id": "1", **row("x", 0.0)})
    paths[0].write_text(f"{line}\n{line}\n{{broken\n", encoding="utf-8")
    paths[1].write_text(
        json.dumps({"id": "1", **row("x", 1.0)}) + "\n" + '{"id": "2", "problem": "p"}\n', encoding="utf-8"
    )
    found = compare(*paths)
    assert found.num_scored == 1 and found.wins == 1
    assert "2 lines are left out" in found.notes[0] and "first.jsonl line 2" in found.notes[0]


def test_file_of_another_kind_is_one_clear_error(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question_id": 1, "text": "x"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.jsonl line 1 has the keys question_id, text; expected id with output"):
        compare(path, path)


def test_verdict_names_what_decides_and_why_the_interval_can_say_otherwise():
    first = {str(n): row("x", 0.0) for n in range(40)}
    found = compare_rows(first, {name: row("y", float(int(name) < 5)) for name in first})
    assert found.interval[0] > 0 and found.p_value == 0.0625
    assert found.verdict().endswith("(by McNemar's test)") and "does not hold 0" in found.summary()[-1]
    found = compare_rows(first, {name: row("y", float(int(name) < 9)) for name in first})
    assert found.verdict() == "significant: the second run is better (by McNemar's test)"
    assert not any("does not hold 0" in line for line in found.summary())


def run_of(folder: Path, rows: dict, *, rule: str = "exact", data: str = "a", judge: str = "") -> Path:
    """Write what a run leaves of a task, and return its file of answers."""
    (folder / "custom").mkdir(parents=True)
    path = folder / "custom" / "answers.jsonl"
    path.write_text("".join(json.dumps({"id": name, **one}) + "\n" for name, one in rows.items()), encoding="utf-8")
    entry = {"identity": {"data": [data]}, "style": "llava", "ocr": None}
    (folder / "run.json").write_text(json.dumps({"tasks": {"custom": entry}}))
    (folder / "scores.json").write_text(json.dumps({"custom": {"rule": rule, "judge": judge}}))
    return path


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rule": "contains"}, "by the rule exact, .* by contains.*--rule exact or"),
        ({"judge": "n"}, "the judge m, .* by n"),
    ],
)
def test_runs_with_other_rules_or_judges_are_refused(tmp_path, change, text):
    rows = {"1": row("x", 1.0)}
    paths = [run_of(tmp_path / "1", rows, judge="m"), run_of(tmp_path / "2", rows, **{"judge": "m", **change})]
    with pytest.raises(ValueError, match=text):
        compare(*paths)


def test_other_questions_under_the_same_ids_are_left_out_or_refused(tmp_path):
    rows = {str(n): row("x", 1.0, answers=[str(n)]) for n in range(5)}
    first = run_of(tmp_path / "first", rows)
    few = {**rows, "2": {**rows["2"], "prompt": "Why?"}}
    found = compare(first, run_of(tmp_path / "few", few, data="b"))
    assert found.num_scored == 4
    assert (
        found.notes[0]
        == "note: 1 of 5 questions differ between the files, first id 2: 'Q?' and 'Why?'; they are left out"
    )
    most = {name: row("x", 1.0, answers=["y"]) for name in rows}
    with pytest.raises(ValueError, match=r"do not compare: 5 of 5 questions differ.*Name runs on the same questions"):
        compare(first, run_of(tmp_path / "most", most, data="b"))
    with pytest.raises(ValueError, match=r"no question is in both .* \(id 0 \.\.\.\) and .* \(id q \.\.\.\)"):
        compare(first, run_of(tmp_path / "none", {"q": row("x", 1.0)}, data="b"))
