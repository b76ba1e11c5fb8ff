"""Each benchmark's server gets the file that it takes: names, order, types, and what stands for a missing answer."""

from __future__ import annotations

import json
import sys

import benchmark_files
import pytest
from tables import RED, base64_of, write_table

from paddlemix.evaluate import submission
from paddlemix.evaluate.files.answers import read_answers
from paddlemix.evaluate.tasks import TASKS
from paddlemix.evaluate.tasks.task import load


def submitted(tmp_path, name, texts=None):
    """Return the parsed file that a task writes for its tiny files, with the same answer to each question."""
    benchmark_files.FOLDERS[name](tmp_path)
    task = TASKS[name]
    questions = load(task, tmp_path).questions
    path = tmp_path / task.submission_name
    task.submission(path, questions, {one.id: "The Two dogs." for one in questions} if texts is None else texts)
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines] if path.suffix == ".jsonl" else json.loads("\n".join(lines))


EXPECTED = {
    "vqav2": [{"question_id": 262148000, "answer": "2 dogs"}, {"question_id": 393225001, "answer": "2 dogs"}],
    "vizwiz": [{"image": "VizWiz_val_00000000.jpg", "answer": "2 dogs"}],
    "gqa": [{"questionId": "201307251", "prediction": "the two dogs"}],
    "docvqa": [{"questionId": 49153, "answer": "The Two dogs."}],
    "infovqa": [{"questionId": 65718, "answer": "The Two dogs."}],
    "mmvet": {"v1_0": "The Two dogs."},
    "coco_captions": [{"image_id": 391895, "caption": "The Two dogs."}],
    "seed": [{"question_id": name, "prediction": "The Two dogs."} for name in ("101669", "v1")],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_file_has_the_form_of_the_server(tmp_path, name):
    assert submitted(tmp_path, name) == EXPECTED[name]


def test_missing_answers_are_empty_where_every_question_is_wanted(tmp_path):
    assert submitted(tmp_path, "vqav2", {"393225001": "no"})[0] == {"question_id": 262148000, "answer": ""}


def test_textvqa_names_questions_by_their_numbers(tmp_path):
    assert [row["question_id"] for row in submitted(tmp_path, "textvqa")] == [34602, 34603, 34604]


def test_llavas_answer_file_is_read_back_to_the_same_answers(tmp_path):
    rows = submitted(tmp_path, "pope")
    assert rows[2]["question_id"] == 20000001 and rows[0]["prompt"].startswith("Is there a cat in the image?\nAnswer")
    questions = load(TASKS["pope"], tmp_path).questions
    assert len(read_answers(tmp_path / "pope.jsonl", questions).texts) == 6


def test_mme_has_a_file_of_four_columns_for_each_category(tmp_path):
    benchmark_files.mme(tmp_path)
    questions = load(TASKS["mme"], tmp_path).questions
    TASKS["mme"].submission(tmp_path / "out" / "mme.txt", questions, {one.id: "Yes,\tit\nis" for one in questions})
    assert (tmp_path / "out" / "existence.txt").read_text(encoding="utf-8").splitlines() == [
        "000000006040.jpg\tIs there an elephant? Please answer yes or no.\tYes\tYes, it is",
        "000000006040.jpg\tIs there a hair drier?  Please answer yes or no.\tNo\tYes, it is",
    ]
    assert not (tmp_path / "out" / "mme.txt").exists()


def test_mmbench_workbook_has_the_columns_of_llavas_script_and_keeps_every_text(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    cells = {"hint": "h", "A": "=1+1", "B": "None", "C": "007", "D": "x\x0by", "category": "ocr"}
    row = {"index": "241", "question": "Which?", **cells, "image": base64_of(RED), "source": "s", "comment": "c"}
    rows = [{**row, "l2-category": "lr", "split": "test"}, {**row, "index": "1000241", "image": "241", "D": ""}]
    write_table(tmp_path / "MMBench_TEST_EN.tsv", rows, list(rows[0]))
    task = TASKS["mmbench_en_test"]
    task.submission(tmp_path / task.submission_name, load(task, tmp_path).questions, {"241": "A"})
    sheet = openpyxl.load_workbook(tmp_path / task.submission_name).active
    assert [[cell.value for cell in row] for row in sheet.iter_rows()] == [
        ["index", "question", "A", "B", "C", "D", "prediction", "split"],
        [241, "Which?", "=1+1", "None", "007", "xy", "A", "test"],
        [1000241, "Which?", "=1+1", "None", "007", None, None, None],
    ]
    assert sheet["C2"].data_type == "s"  # not a formula


def test_missing_workbook_library_is_an_error_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ValueError, match=r"openpyxl: pip install .*eval"):
        submission.write_workbook(tmp_path / "a.xlsx", [["index"]])
    assert not (tmp_path / "a.xlsx").exists()


def test_table_of_mme_gives_the_same_four_columns(tmp_path):
    row = {"index": "1", "question": "Is it?", "answer": "Yes", "category": "existence", "image": base64_of(RED)}
    write_table(tmp_path / "MME.tsv", [{**row, "image_path": "existence/a.jpg"}])
    questions = load(TASKS["mme"], tmp_path).questions
    TASKS["mme"].submission(tmp_path / "out" / "mme.txt", questions, {"1": "No"})
    assert (tmp_path / "out" / "existence.txt").read_text() == "a.jpg\tIs it?\tYes\tNo\n"


def test_table_of_vizwiz_is_submitted_only_if_it_names_its_images(tmp_path):
    row = {"index": "1", "question": "What?", "answer": "a", "image": base64_of(RED)}
    task, path = TASKS["vizwiz"], tmp_path / "vizwiz.json"
    write_table(tmp_path / "VizWiz.tsv", [{**row, "image_path": "val/a.jpg"}])
    task.submission(path, load(task, tmp_path).questions, {"1": "The dog"})
    assert json.loads(path.read_text()) == [{"image": "a.jpg", "answer": "dog"}]
    write_table(tmp_path / "VizWiz.tsv", [row])
    with pytest.raises(ValueError, match="does not name the images"):
        task.submission(path, load(task, tmp_path).questions, {"1": "The dog"})


@pytest.mark.parametrize(
    ("name", "file", "cells", "text"),
    [
        ("mme", "MME.tsv", {"answer": "Yes", "category": "smell", "image_path": "a.jpg"}, "category is 'smell'"),
        ("mmmu", "MMMU_DEV_VAL.tsv", {"answer": "[]", "category": "Art"}, "list of answers is empty"),
        ("ocrbench", "OCRBench.tsv", {"answer": "[]", "category": "x"}, "list of answers is empty"),
        ("mmvet", "MMVet.tsv", {"answer": "x", "category": "rec,smell"}, "unknown capability 'smell'"),
    ],
)
def test_row_of_a_table_that_cannot_be_scored_is_named_before_it_is_asked(tmp_path, name, file, cells, text):
    write_table(tmp_path / file, [{"index": "1", "question": "?", **cells, "image": base64_of(RED)}])
    found = load(TASKS[name], tmp_path)
    assert found.questions == () and text in found.summary()
