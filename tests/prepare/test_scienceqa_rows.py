"""ScienceQA's problems become rows in the order of the split. The expected rows are written out by hand.

The forms themselves are compared with LLaVA's script in tests/evaluate/golden_cases.py.
"""

from __future__ import annotations

import json

import pytest
from data_sets import write_image
from prepared import prepare, rows_of

STATE = {
    "question": "Which of these states is farthest north?",
    "choices": ["West Virginia", "Louisiana", "Arizona"],
    "answer": 0,
    "hint": "",
    "image": "image.png",
    "task": "closed choice",
    "grade": "grade2",
    "subject": "social science",
    "topic": "geography",
    "category": "Geography",
    "skill": "Read a map: cardinal directions",
    "lecture": "Maps have\\nfour directions.",
    "solution": "To find the answer, look at the compass.",
    "split": "train",
}
TEXT = {**STATE, "question": "Is  ice cold?", "choices": ["yes", "no"], "hint": "Think.", "image": None, "answer": 0}
TEXT |= {"lecture": "", "solution": ""}


def write(folder, problems, splits):
    folder.mkdir(exist_ok=True)
    (folder / "problems.json").write_text(json.dumps(problems), encoding="utf-8")
    (folder / "pid_splits.json").write_text(json.dumps(splits), encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "scienceqa", {"1": STATE, "2": TEXT}, {"train": ["2", "1"], "val": []})


def turns(question, answer):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def test_form_of_version_1_has_reasons_and_the_image_last(folder):
    assert prepare("scienceqa", "--base_dir", folder, "--split", "train", "--prompt_format", "QCM-LEPA") == 0
    question = (
        "Which of these states is farthest north?\nContext: N/A\n"
        "Options: (A) West Virginia (B) Louisiana (C) Arizona\n<image>"
    )
    answer = "LECTURE: Maps have\nfour directions.\nSOLUTION: To find the answer, look at the compass.\n###\nANSWER: A."
    text = "Is ice cold?\nContext: Think.\nOptions: (A) yes (B) no"
    assert rows_of(folder / "llava_train_QCM-LEPA.jsonl") == [
        {"id": "2", "conversations": turns(text, "###\nANSWER: A.")},
        {"id": "1", "image": "1/image.png", "conversations": turns(question, answer)},
    ]


def test_released_form_has_the_image_first_and_the_letter_alone(folder):
    words = ("--prompt_format", "released", "--split_folders", "--image_prefix", "ScienceQA/images/")
    assert prepare("scienceqa", "--base_dir", folder, "--split", "train", *words) == 0
    question = "<image>\nWhich of these states is farthest north?\nA. West Virginia\nB. Louisiana\nC. Arizona"
    assert rows_of(folder / "llava_train_released.jsonl") == [
        {"id": "2", "conversations": turns("Context: Think.\nIs  ice cold?\nA. yes\nB. no", "A")},
        {"id": "1", "image": "ScienceQA/images/train/1/image.png", "conversations": turns(question, "A")},
    ]


def test_flat_rows_have_instruction_and_output(folder, tmp_path):
    words = ("--prompt_format", "CQM-A", "--flat", "--output_dir", tmp_path / "out")
    assert prepare("scienceqa", "--base_dir", folder, "--split", "train", *words) == 0
    first, second = rows_of(tmp_path / "out" / "scienceqa_train_CQM-A.jsonl")
    text = "Context: Think.\nQuestion: Is ice cold?\nOptions: (A) yes (B) no"
    assert first == {"id": "2", "instruction": text, "output": "The answer is A."}
    assert list(second) == ["id", "image", "instruction", "output"]


def test_hostile_problems_are_dropped_by_reason(tmp_path, capsys):
    hostile = {
        "good": TEXT,
        "one option": {**TEXT, "choices": ["yes"]},
        "beyond": {**TEXT, "answer": 2},
        "negative": {**TEXT, "answer": -1},
        "text as answer": {**TEXT, "answer": "0"},
        "six": {**TEXT, "choices": list("abcdef")},
        "no question": {**TEXT, "question": " "},
        "mark": {**TEXT, "choices": ["<image>", "b"]},
        "outside": {**TEXT, "image": "../image.png"},
        "list": [],
        "blank hint": {**TEXT, "hint": "   "},
        "null hint": {**TEXT, "hint": None},
        "number hint": {**TEXT, "hint": 5},
    }
    folder = write(tmp_path / "scienceqa", hostile, {"test": [*hostile, "nowhere", 77]})
    assert prepare("scienceqa", "--base_dir", folder, "--split", "test", "--prompt_format", "QCM-A") == 0
    rows = rows_of(folder / "llava_test_QCM-A.jsonl")
    assert [one["id"] for one in rows] == ["good", "one option", "blank hint", "null hint"]
    assert "Context: N/A" in rows[2]["conversations"][0]["value"]
    printed = capsys.readouterr().out
    assert "15 rows read, 4 written, 11 dropped" in printed
    assert "dropped 2: not in problems.json" in printed


def test_problems_whose_image_is_missing_are_dropped_until_it_comes(folder, capsys):
    images = folder / "images"
    images.mkdir()
    words = ("scienceqa", "--base_dir", folder, "--split", "train", "--image_dir", images)
    assert prepare(*words) == 0
    output = folder / "llava_train_QCM-LEA.jsonl"
    assert [one["id"] for one in rows_of(output)] == ["2"]
    assert "there is no train/1/image.png" in capsys.readouterr().out
    write_image(images / "train" / "1" / "image.png")
    assert prepare(*words) == 0
    assert [one["id"] for one in rows_of(output)] == ["2", "1"]


def test_wrong_arguments_are_refused(folder, tmp_path, capsys):
    words = ("scienceqa", "--base_dir", folder, "--split")
    assert prepare(*words, "dev") == 1
    assert "no split 'dev': expected one of train, val" in capsys.readouterr().err
    assert prepare(*words, "train", "--prompt_format", "QCM-X") == 1
    assert "Unknown form 'QCM-X'" in capsys.readouterr().err
    assert prepare(*words, "train", "--prompt_format", "released", "--flat") == 1
    assert prepare("scienceqa", "--base_dir", tmp_path, "--split", "train") == 1
    assert "has no problems.json" in capsys.readouterr().err
    assert prepare(*words, "val") == 1  # no rows
