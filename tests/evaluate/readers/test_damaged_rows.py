"""A benchmark's files with a wrong value in any place: each gives a named problem or one error, never anything else."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import benchmark_files
import pytest
from benchmark_files import FOLDERS, write_json

from paddlemix.evaluate.results import Saved
from paddlemix.evaluate.scoring import score_task
from paddlemix.evaluate.tasks import TASKS
from paddlemix.evaluate.tasks.task import load

ABSENT = object()
WRONG = (ABSENT, None, True, -1, float("inf"), "", "x", "a\0b", "y" * 5000, "../up.png", [], [None], {}, {"a": {}})


def places(value: Any, place: tuple = ()) -> Iterator[tuple]:
    yield place
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield from places(value[key], (*place, key))


def changed(value: Any, place: tuple, wrong: Any) -> Any:
    """Return a copy with another value in one place."""
    value = copy.deepcopy(value)
    owner = value
    for key in place[:-1]:
        owner = owner[key]
    if wrong is ABSENT:
        del owner[place[-1]]
    else:
        owner[place[-1]] = wrong
    return value


def rows_of(path: Path) -> tuple[Any, bool]:
    """Return the value of a JSON file, or of one with a value in each line."""
    text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text), path.suffix == ".jsonl"
    except ValueError:
        return [json.loads(line) for line in text.splitlines()], True


def check(task, folder: Path) -> None:
    """Read and score; only a ValueError of reading is allowed."""
    try:
        loaded = load(task, folder)
    except ValueError:
        return
    assert all(one.where and one.text for one in loaded.problems)
    saved = {one.id: Saved("A", judgement=("8 9\nok",)) for one in loaded.questions}
    score_task(task, loaded, saved)


@pytest.mark.parametrize("name", FOLDERS)
def test_wrong_value_anywhere_is_named_and_stops_nothing(tmp_path, name):
    FOLDERS[name](tmp_path)
    for path in (*tmp_path.rglob("*.json"), *tmp_path.rglob("*.jsonl")):
        before = path.read_bytes()
        found, is_lines = rows_of(path)
        found = [found] if isinstance(found, dict) and is_lines else found
        for place in filter(None, places(found)):
            for wrong in WRONG:
                value = changed(found, place, wrong)
                lines = [json.dumps(row) + "\n" for row in value] if is_lines else [json.dumps(value)]
                path.write_text("".join(lines), encoding="utf-8")
                check(TASKS[name], tmp_path)
        path.write_bytes(before)


def test_damaged_annotation_costs_its_own_question_alone(tmp_path):
    benchmark_files.vqav2(tmp_path)
    path = tmp_path / "v2_mscoco_val2014_annotations.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["annotations"]
    write_json(path, {"annotations": [None, rows[1]]})
    found = load(TASKS["vqav2"], tmp_path)
    assert [one.id for one in found.questions] == [
        "393225001"
    ] and "262148000): there is no annotation" in found.summary()


def test_question_with_nine_human_answers_is_named_before_it_is_asked(tmp_path):
    benchmark_files.textvqa(tmp_path)
    path = tmp_path / "textvqa" / "TextVQA_0.5.1_val.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["data"]
    write_json(path, {"data": [{**rows[0], "answers": rows[0]["answers"][1:]}, *rows[1:]]})
    found = load(TASKS["textvqa"], tmp_path)
    assert len(found.questions) == 2 and "9 human answers, expected 10" in found.summary()


def test_blank_human_answer_counts_as_one_of_ten(tmp_path):
    benchmark_files.vizwiz(tmp_path)
    path = tmp_path / "vizwiz" / "val.json"
    (row,) = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, [{**row, "answers": [{"answer": ""}, *row["answers"][1:]]}])
    found = load(TASKS["vizwiz"], tmp_path)
    assert found.problems == () and found.questions[0].fields["answers"][0] == ""


def test_damaged_caption_is_named_and_the_others_stay(tmp_path):
    benchmark_files.coco_captions(tmp_path)
    path = tmp_path / "annotations" / "captions_val2014.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    found["annotations"][1] = {"image_id": 391895, "id": 1}
    write_json(path, found)
    loaded = load(TASKS["coco_captions"], tmp_path)
    assert (
        len(loaded.questions[0].fields["references"]) == 4
        and "row 2 (1): the annotation is damaged" in loaded.summary()
    )


def test_key_of_gqa_is_the_id_even_if_the_row_has_one(tmp_path):
    benchmark_files.gqa(tmp_path)
    path = tmp_path / "gqa" / "data" / "testdev_balanced_questions.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {name: {**row, "id": "other"} for name, row in rows.items()})
    assert [one.id for one in load(TASKS["gqa"], tmp_path).questions] == ["201307251"]
