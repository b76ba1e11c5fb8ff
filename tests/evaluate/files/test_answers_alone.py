"""Files that hold the right answers are scored without the benchmark's files, to the same figures."""

from __future__ import annotations

import json
from pathlib import Path

import benchmark_files
import pytest
from tables import RED, base64_of, write_table

from paddlemix.evaluate.files.stand_alone import stand_alone
from paddlemix.evaluate.results import Saved, TaskResult
from paddlemix.evaluate.scoring import score_task
from paddlemix.evaluate.submission import write_workbook
from paddlemix.evaluate.tasks import TASKS
from paddlemix.evaluate.tasks.task import Task, load

CELL = base64_of(RED)
MMBENCH = [
    {"index": index, "question": "Which?", "A": "cat", "B": "2", "C": "", "answer": answer, "category": "ocr"}
    for index, answer in (("1", "A"), ("1000001", "B"), ("2", "A"))
]


def write(path: Path, rows: list) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def lines_of(result: TaskResult) -> list[dict]:
    """Return the lines of answers.jsonl of a run; keys without a value are left out."""
    lines = []
    for one in result.answered:
        line = {"id": one.question.id, "prompt": one.question.prompt, "output": one.output, "problem": one.problem}
        line |= {"finish_reason": one.finish_reason, "num_prompt_tokens": one.num_prompt_tokens}
        line |= {"judgement": list(one.judgement), "credit": one.credit, "fields": dict(one.question.fields)}
        lines.append({key: value for key, value in line.items() if value not in (None, "", 0, [])})
    return lines


def first_saved(task: Task, questions) -> dict[str, Saved]:
    """Return the first question's answer as a problem where there are several, and texts for the others.

    MME's metric needs both answers to an image.
    """
    judgement = ("8 9",) if task.has_judge else ()
    texts = {one.id: Saved("yes", "", "stop", 30, judgement) for one in questions}
    return (
        {**texts, questions[0].id: Saved(None, "there is no image x")}
        if len(questions) > 1 and task.name != "mme"
        else texts
    )


@pytest.mark.parametrize("name", sorted(benchmark_files.FOLDERS))
def test_answers_of_a_run_are_scored_alone_as_with_the_files(tmp_path, name):
    benchmark_files.FOLDERS[name](tmp_path)
    task = TASKS[name]
    loaded = load(task, tmp_path, ocr=False)
    expected = score_task(task, loaded, first_saved(task, loaded.questions))
    path = write(tmp_path / "answers.jsonl", lines_of(expected))
    result = score_task(task, *stand_alone(task, path))
    assert result.scores == expected.scores
    assert [one.credit for one in result.answered] == [one.credit for one in expected.answered]
    assert [one.question.prompt for one in result.answered] == [one.question.prompt for one in expected.answered]
    own = expected.problems[len(loaded.problems) :]  # of questions; damaged rows are in no line
    assert [str(one) for one in result.problems] == [str(one) for one in own]


def test_category_that_was_a_tuple_counts_in_each_part_again(tmp_path):
    cells = {"index": "0", "question": "Cat?", "answer": "yes", "category": "popular,random", "image": CELL}
    write_table(tmp_path / "POPE.tsv", [cells])
    loaded = load(TASKS["pope"], tmp_path)
    expected = score_task(TASKS["pope"], loaded, {"0": Saved("yes")})
    result = score_task(TASKS["pope"], *stand_alone(TASKS["pope"], write(tmp_path / "a.jsonl", lines_of(expected))))
    assert result.scores == expected.scores and result.answered[0].question.fields["category"] == ("popular", "random")


def workbook(path: Path, rows: list[dict], answers: list[str]) -> Path:
    columns = [name for name in rows[0] if name != "image"]
    cells = [[row[name] for name in columns] + [text] for row, text in zip(rows, answers, strict=True)]
    write_workbook(path, [[*columns, "prediction"], *cells], ("index", "B"))
    return path


def test_workbook_of_vlmevalkit_gives_the_figures_of_its_table(tmp_path):
    pytest.importorskip("openpyxl")
    task, answers = TASKS["mmbench_en_dev"], ["A", "B. 2", "B"]
    write_table(tmp_path / "MMBench_DEV_EN.tsv", [{**row, "image": CELL} for row in MMBENCH])
    saved = {row["index"]: Saved(text) for row, text in zip(MMBENCH, answers, strict=True)}
    expected = score_task(task, load(task, tmp_path, "vlmevalkit"), saved)
    path = workbook(tmp_path / "m_MMBench_DEV_EN.xlsx", MMBENCH, answers)
    result = score_task(task, *stand_alone(task, path))
    assert result.scores == expected.scores and result.scores.value() == 0.5
    assert [one.question for one in result.answered] != [] and result.problems == ()
    assert [one.question.prompt for one in result.answered] == [one.question.prompt for one in expected.answered]
    with pytest.raises(ValueError, match="holds no images"):
        result.answered[0].question.images[0]()


def test_tab_separated_answers_of_vlmevalkit_are_read_like_a_workbook(tmp_path):
    pytest.importorskip("openpyxl")
    task, answers = TASKS["mmbench_en_dev"], ["A", "B. 2", ""]
    rows = [{**row, "prediction": text} for row, text in zip(MMBENCH, answers, strict=True)]
    write_table(tmp_path / "m_MMBench_DEV_EN.tsv", rows)
    found = score_task(task, *stand_alone(task, tmp_path / "m_MMBench_DEV_EN.tsv"))
    expected = score_task(task, *stand_alone(task, workbook(tmp_path / "m.xlsx", MMBENCH, answers)))
    assert found.scores == expected.scores and found.answered == expected.answered and not found.problems
    write_table(tmp_path / "MMBench_DEV_EN.tsv", [{**row, "image": CELL} for row in MMBENCH])
    with pytest.raises(ValueError, match="expected prediction among them"):
        stand_alone(task, tmp_path / "MMBench_DEV_EN.tsv")


def test_bad_rows_of_a_workbook_are_named(tmp_path):
    pytest.importorskip("openpyxl")
    rows = [MMBENCH[0], {**MMBENCH[1], "question": ""}, {**MMBENCH[2], "index": "1"}]
    loaded, saved = stand_alone(TASKS["mmbench_en_dev"], workbook(tmp_path / "m.xlsx", rows, ["A", "B", "C"]))
    assert list(saved) == ["1"] and saved["1"].output == "A"
    text = loaded.summary()
    assert "line 3" in text and "no question" in text and "index 1 occurs before" in text


def sample(place: int, text: str, **doc) -> dict:
    return {
        "doc_id": place,
        "doc": {"question": "Q?", **doc},
        "target": "t",
        "filtered_resps": [text],
        "input": "Q? A.",
    }


SAMPLES = [
    ("pope", "yes", {"question_id": "1", "answer": "yes", "category": "random"}, "random/1"),
    ("gqa", "no", {"id": "201", "answer": "no", "types": {"structural": "verify", "semantic": "global"}}, "201"),
    ("chartqa", "14.2", {"answer": "14", "type": "human_test"}, "0"),
    ("docvqa", "28%", {"questionId": "49153", "answers": ["0.28", "28%"]}, "49153"),
    ("infovqa", "serif", {"questionId": "65718", "answers": ["serif"]}, "65718"),
    ("textvqa", "nokia", {"question_id": 34602, "answers": ["nokia"] * 10}, "34602"),
    ("vqav2", "yes", {"question_id": 2, "answers": [{"answer": "yes"}] * 10, "answer_type": "yes/no"}, "2"),
    ("ai2d", "B", {"options": ["cat", "dog"], "answer": "1"}, "0"),
]


@pytest.mark.parametrize(("name", "text", "doc", "identity"), SAMPLES)
def test_right_answer_in_a_sample_of_lmms_eval_is_right(tmp_path, name, text, doc, identity):
    path = write(tmp_path / "samples.jsonl", [sample(0, text, **doc), "{broken"])
    loaded, saved = stand_alone(TASKS[name], path)
    result = score_task(TASKS[name], loaded, saved, rule="official" if name == "vqav2" else None)
    assert [one.question.id for one in result.answered] == [identity] and result.answered[0].credit == 1.0
    assert result.answered[0].question.prompt == "Q? A." and len(loaded.problems) == 1
    wrong = write(tmp_path / "wrong.jsonl", [sample(0, "zzz no", **doc)])
    assert score_task(TASKS[name], *stand_alone(TASKS[name], wrong)).answered[0].credit == 0.0


def test_two_questions_of_an_image_of_mme_are_one_pair(tmp_path):
    doc = {"question_id": "existence/1.png", "category": "existence"}
    rows = [sample(0, "Yes", **doc, answer="Yes"), sample(1, "No", **{**doc, "question": "Z?"}, answer="No")]
    result = score_task(TASKS["mme"], *stand_alone(TASKS["mme"], write(tmp_path / "s.jsonl", rows)))
    assert result.scores.value("existence") == 200
    assert [one.question.id for one in result.answered] == ["existence/1.png/Q?", "existence/1.png/Z?"]


@pytest.mark.parametrize(
    ("name", "row", "text"),
    [
        ("gqa", {"question_id": 1, "prompt": "p", "text": "x"}, "LLaVA's files hold answers without the right ones"),
        ("mmvet", sample(0, "x", answer="y"), "samples of lmms-eval are read alone for pope"),
        ("gqa", {"doc_id": 0, "target": "t", "filtered_resps": ["x"]}, "have no documents"),
    ],
)
def test_file_without_right_answers_is_one_error_that_names_the_files(tmp_path, name, row, text):
    with pytest.raises(ValueError, match=f"cannot be scored alone; give --data-dir with .*{text}"):
        stand_alone(TASKS[name], write(tmp_path / "a.jsonl", [row]))


def test_broken_and_second_lines_are_named_and_the_first_answer_counts(tmp_path):
    line = {"id": "1", "prompt": "p", "output": "no", "fields": {"answer": "no"}}
    rows = [line, {**line, "output": "yes"}, "[1]", {**line, "id": "2", "output": 5}, {"id": "3", "output": "x"}]
    loaded, saved = stand_alone(TASKS["gqa"], write(tmp_path / "a.jsonl", rows))
    assert saved == {"1": Saved("no")}
    assert [one.where for one in loaded.problems] == [f"a.jsonl line {number}" for number in (2, 3, 4, 5)]


def test_line_whose_fields_no_run_has_written_is_named(tmp_path):
    good = {"id": "1", "prompt": "p", "output": "a", "fields": {"answer": "a"}}
    rows = [good, {**good, "id": "2", "fields": "x"}, {**good, "id": "3", "has_ocr": []}]
    loaded, saved = stand_alone(TASKS["gqa"], write(tmp_path / "a.jsonl", rows))
    assert list(saved) == ["1"] and len(loaded.problems) == 2 and "no run has written" in loaded.summary()
