"""Saved answers of every project find their questions; whatever does not is counted and named."""

from __future__ import annotations

import json
from pathlib import Path

import benchmark_files
import pytest

from paddlemix.evaluate.files.answers import read_answers
from paddlemix.evaluate.item import Question
from paddlemix.evaluate.submission import write_workbook
from paddlemix.evaluate.tasks import TASKS
from paddlemix.evaluate.tasks.task import load

THREE = tuple(Question(name, (f"Question {name}?",)) for name in ("1", "2", "3"))


def write(path: Path, rows: list) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def ours(name, text, **more) -> dict:
    return {"id": name, "prompt": "p", "output": text, "parsed": None, "verdict": {"credit": 0.0}, **more}


def llava(name, text, prompt="p") -> dict:
    return {"question_id": name, "prompt": prompt, "text": text, "answer_id": "x", "model_id": "m", "metadata": {}}


def lmms(place, text, **doc) -> dict:
    return {"doc_id": place, "doc": doc, "target": "t", "resps": [[f"<think></think>{text}"]], "filtered_resps": [text]}


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("paddlemix", [ours("2", "b"), ours("1", "a"), ours("3", "")]),
        ("llava", [llava(2, "b"), llava("1", "a"), llava(3, "")]),
        ("lmms", [lmms(0, "b", question_id="2"), lmms(1, "a", question_id=1), lmms(2, "", index="3")]),
    ],
)
@pytest.mark.parametrize("has_mark", [False, True])
def test_lines_of_each_project_are_read_in_the_order_of_the_questions(tmp_path, kind, rows, has_mark):
    path = write(tmp_path / "a.jsonl", [*rows, ""])
    if has_mark:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    found = read_answers(path, THREE)
    assert (found.kind, list(found.texts.items())) == (kind, [("1", "a"), ("2", "b"), ("3", "")])
    assert found.summary() == f"3 answers ({kind})"


def test_workbook_of_vlmevalkit_is_read_with_numbers_and_empty_cells(tmp_path):
    pytest.importorskip("openpyxl")
    path = tmp_path / "m_MMBench.xlsx"
    write_workbook(
        path, [["index", "A", "prediction"], ["1", "cat", "007"], ["2.0", "", "=1+1"], ["3", "x", ""]], ["index"]
    )
    questions = (*THREE[:1], Question("2.0", ("q",)), THREE[2])
    found = read_answers(path, questions)
    assert found.kind == "vlmevalkit" and dict(found.texts) == {"1": "007", "2.0": "=1+1", "3": ""}


def test_result_file_of_llavas_scienceqa_is_read(tmp_path):
    path = tmp_path / "result.json"
    benchmark_files.write_json(path, {"acc": 50.0, "results": {"1": 0}, "outputs": {"1": "A", "2": "B"}})
    found = read_answers(path, THREE)
    assert dict(found.texts) == {"1": "A", "2": "B"} and found.missing == ("3",)


def test_duplicate_missing_and_unknown_answers_are_counted_and_named(tmp_path):
    rows = [llava(1, "a"), llava(1, "a"), llava(1, "other"), llava(9, "x"), "{broken", llava(2, 5)]
    found = read_answers(write(tmp_path / "a.jsonl", rows), THREE)
    assert dict(found.texts) == {"1": "a"} and found.missing == ("2", "3")
    assert [str(one) for one in found.duplicates] == [
        "a.jsonl line 2 (1): an answer came before, with the same text",
        "a.jsonl line 3 (1): an answer came before, with another text",
    ]
    assert [str(one) for one in found.unknown] == ["a.jsonl line 4 (9): there is no question of this id"]
    assert [one.where for one in found.problems] == ["a.jsonl line 5", "a.jsonl line 6"]
    for part in ("1 answer (llava)", "2 duplicate", "2 missing: 2; 3", "1 unknown", "2 problems"):
        assert part in found.summary()


def test_failed_requests_stay_answers_and_are_named(tmp_path):
    rows = [
        lmms(0, "[LMMS_EVAL_REQUEST_FAILED after 5 retries] x", index=1),
        lmms(1, "b", index=2),
        lmms(2, "c", index=3),
    ]
    found = read_answers(write(tmp_path / "a.jsonl", rows), THREE)
    assert len(found.texts) == 3 and "(1): the request failed" in str(found.problems[0])


def test_samples_without_known_ids_are_matched_by_place_and_that_is_told(tmp_path):
    rows = [lmms(2, "c"), lmms(0, "a"), lmms(7, "x")]
    found = read_answers(write(tmp_path / "a.jsonl", rows), THREE)
    assert dict(found.texts) == {"1": "a", "3": "c"} and found.num_by_order == 2
    assert len(found.unknown) == 1 and "2 matched by order" in found.summary()


def test_sample_at_the_place_of_another_question_is_unknown(tmp_path):
    rows = [lmms(0, "a", question="QUESTION  1?"), lmms(1, "b", question="Question 3?")]
    found = read_answers(write(tmp_path / "a.jsonl", rows), THREE)
    assert dict(found.texts) == {"1": "a"} and len(found.unknown) == 1


def test_samples_of_pope_are_told_apart_by_their_category(tmp_path):
    benchmark_files.pope(tmp_path)
    questions = load(TASKS["pope"], tmp_path).questions
    rows = [lmms(0, name, question_id="1", category=name) for name in ("random", "popular", "adversarial")]
    found = read_answers(write(tmp_path / "a.jsonl", rows), questions)
    assert dict(found.texts) == {f"{name}/1": name for name in ("adversarial", "popular", "random")}


def test_one_known_id_forbids_matching_the_others_by_place(tmp_path):
    found = read_answers(write(tmp_path / "a.jsonl", [lmms(0, "a", index="2"), lmms(1, "b", index="77")]), THREE)
    assert dict(found.texts) == {"2": "a"} and [one.id for one in found.unknown] == ["77"]


def test_textvqas_rows_with_one_image_are_told_apart_by_their_prompts(tmp_path):
    benchmark_files.textvqa(tmp_path)
    questions = load(TASKS["textvqa"], tmp_path).questions
    prompts = {one.id: one.prompt.removeprefix("<image>\n") for one in questions}
    image = "003a8ae2ef43b901"
    rows = [llava(image, "second", prompts["34603"]), llava(image, "first", prompts["34602"])]
    rows += [llava(image, "again", prompts["34603"]), llava("00685bc495504d61", "third", "in another style")]
    found = read_answers(write(tmp_path / "a.jsonl", rows), questions)
    assert dict(found.texts) == {"34602": "first", "34603": "second", "34604": "third"}
    assert len(found.duplicates) == 1 and found.num_by_order == 0


def test_rows_of_one_id_without_a_known_prompt_are_matched_by_order(tmp_path):
    benchmark_files.mme(tmp_path)
    questions = load(TASKS["mme"], tmp_path).questions
    rows = [llava("existence/000000006040.jpg", text, "another prompt") for text in ("Yes", "No")]
    found = read_answers(write(tmp_path / "a.jsonl", rows), questions)
    assert dict(found.texts) == {f"existence/000000006040.jpg/{n}": text for n, text in ((1, "Yes"), (2, "No"))}
    assert found.num_by_order == 2 and len(found.missing) == 2


def test_own_id_is_preferred_to_the_other_names_of_a_question(tmp_path):
    questions = (Question("1", ("a",), other_ids=("2",)), Question("2", ("b",), other_ids=("1",)))
    found = read_answers(write(tmp_path / "a.jsonl", [llava(1, "x"), llava(2, "y")]), questions)
    assert dict(found.texts) == {"1": "x", "2": "y"}


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.jsonl", "", "no line that is a JSON object"),
        ("a.jsonl", '{"question": "x"}', "a.jsonl line 1 holds no answer that is known: found the keys question"),
        (
            "a.jsonl",
            '{"question_id": 1, "image": "x.jpg", "text": "Which?"}',
            "a.jsonl line 1 holds a question of LLaVA",
        ),
        ("a.json", "[]", "expected a JSON object"),
        ("a.json", '{"acc": 1}', "expected the key 'outputs'"),
        ("a.xlsx", "index,prediction", "is not a workbook"),
        ("none.jsonl", None, "cannot be read"),
    ],
)
def test_file_without_answers_is_an_error_that_says_what_was_found(tmp_path, name, content, text):
    if name.endswith("xlsx"):
        pytest.importorskip("openpyxl")
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError) as error:
        read_answers(tmp_path / name, THREE)
    assert text in str(error.value) and name in str(error.value)


def test_workbook_without_the_columns_is_an_error(tmp_path):
    pytest.importorskip("openpyxl")
    write_workbook(tmp_path / "a.xlsx", [["index", "answer"], ["1", "A"]])
    with pytest.raises(ValueError, match="columns index, answer"):
        read_answers(tmp_path / "a.xlsx", THREE)


def test_questions_that_share_an_id_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two questions have the id '1'"):
        read_answers(write(tmp_path / "a.jsonl", [llava(1, "a")]), (THREE[0], THREE[0]))
