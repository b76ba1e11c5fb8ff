"""Files of a run that something else has changed: each is named in one line, and nothing is taken for an answer."""

from __future__ import annotations

import json

import pytest

from paddlemix.evaluate.journal import ANSWERS, read_answers_file
from paddlemix.evaluate.results import Saved
from paddlemix.evaluate.run import RUN, claim
from paddlemix.output import OutputError

ENTRY = {"identity": {"decoding": {}}, "run": {}, "files": [], "data_dir": "data", "style": "llava", "num_asked": 3}


def test_entry_that_a_run_has_written_is_taken(tmp_path):
    (tmp_path / RUN).write_text(json.dumps({"tasks": {"pope": ENTRY}}))
    assert claim(tmp_path) == {"tasks": {"pope": ENTRY}}


@pytest.mark.parametrize(
    "entry", [None, 5, {}, [ENTRY], {**ENTRY, "identity": 3}, {**ENTRY, "identity": {}}, {**ENTRY, "num_asked": "3"}]
)
def test_entry_of_run_json_that_no_run_has_written_is_named(tmp_path, entry):
    (tmp_path / RUN).write_text(json.dumps({"tasks": {"pope": ENTRY, "mme": entry}}))
    with pytest.raises(OutputError, match=r"run\.json is damaged \(what it says of 'mme'\)"):
        claim(tmp_path)


GOOD = {"id": "1", "output": "a", "finish_reason": "stop", "num_prompt_tokens": 3}


@pytest.mark.parametrize(
    "row",
    [
        {"output": "x"},
        {"id": "2"},
        {"id": ["2"], "output": "x"},
        {"id": "2", "output": 7},
        {"id": "2", "output": None},
        {"id": "2", "problem": 3},
        {**GOOD, "id": "2", "finish_reason": []},
        {**GOOD, "id": "2", "num_prompt_tokens": "3"},
        {**GOOD, "id": "2", "judgement": 5},
        {**GOOD, "id": "2", "judgement": "8 9"},
        {**GOOD, "id": "2", "judgement": [8]},
    ],
)
def test_answer_that_no_run_has_written_is_named(tmp_path, row):
    path = tmp_path / ANSWERS
    path.write_text("".join(json.dumps(one) + "\n" for one in (GOOD, row)))
    with pytest.raises(OutputError, match=r"answers\.jsonl line 2 is damaged: remove the file"):
        read_answers_file(tmp_path)


def test_answers_of_every_kind_are_read(tmp_path):
    rows = [GOOD, {"id": "2", "problem": "no image"}, {**GOOD, "id": "3", "judgement": ["8 9"]}]
    (tmp_path / ANSWERS).write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert read_answers_file(tmp_path) == {
        "1": Saved("a", "", "stop", 3),
        "2": Saved(None, "no image"),
        "3": Saved("a", "", "stop", 3, ("8 9",)),
    }
