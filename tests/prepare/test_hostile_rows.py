"""Whatever a raw row holds, it becomes rows of texts or a problem with a reason; no converter ends with it."""

from __future__ import annotations

import json
import random

import pytest
import raw_sets
from hostile_values import HOSTILE, changed, places

from paddlemix.prepare.job import made_of_row
from paddlemix.prepare.row import Note, Problem
from paddlemix.prepare.sets import ai2d, arxivcap, arxivqa, chartqa, docvqa, dvqa, json2jsonl, synthdog
from paddlemix.prepare.sets.parquet_images import Figure

ASKED = {"answerTexts": ["a", "b"], "correctAnswer": 1, "questionId": "0.png-0"}
LABEL = {"label": "B", "rationale": "Because.", "options": ["A) a", "B) b"], "id": "x", "question": "?", "image": "i/x"}
DOCUMENT = {"questionId": 1, "question": "Q?", "image": "a/b.png", "answers": ["x", "y"]}
FIGURE = {"caption": "c", "cil_pairs": [{"image_file": "a/b.jpg", "image": {"bytes": raw_sets.JPEG, "path": None}}]}


def figure(value):
    made = arxivcap.figure_or_problem(value, set())
    return made if isinstance(made, Problem) else as_row(made)


def document(value):
    made = synthdog.document_or_problem("x", "y.png", "Prompt.", value)
    return made if isinstance(made, Problem) else as_row(made)


def as_row(made: Figure) -> dict:
    texts = [{"from": "human", "value": made.question}, {"from": "gpt", "value": made.answer}]
    return {"id": made.id, "image": made.file, "conversations": texts}


CASES = {
    "ai2d": (ai2d.convert, {"imageName": "0.png", "questions": {"Q?": ASKED, "R?": ASKED}}),
    "arxivcap": (figure, FIGURE),
    "arxivqa": (arxivqa.convert, LABEL),
    "chartqa": (
        lambda row: chartqa.convert("train", "x_", (3, row)),
        {"imgname": "x.png", "query": "How many?", "label": "14"},
    ),
    "docvqa": (lambda row: docvqa.convert("images", "image", row), DOCUMENT),
    "dvqa": (dvqa.convert, {"question": "Q?", "question_id": 1, "answer": "9", "image": "x.png"}),
    "synthdog": (document, {"image": {"bytes": b"x"}, "ground_truth": '{"gt_parse": {"text_sequence": "t"}}'}),
    "json2jsonl": (json2jsonl.convert, {"id": 1}),
}


def as_object(value):
    """Return a row as AI2D's reader parses it, with the objects that keep repeated keys."""
    if isinstance(value, dict):
        return ai2d._Object([(key, as_object(one)) for key, one in value.items()])
    return [as_object(one) for one in value] if isinstance(value, list) else value


def check(made) -> None:
    if isinstance(made, Problem):
        assert made.reason
    elif not isinstance(made, Note):
        texts = [made["id"], made["image"], *(turn["value"] for turn in made["conversations"])]
        assert all(isinstance(text, str) and text for text in texts) and ".." not in made["image"].split("/")


@pytest.mark.parametrize("name", CASES)
def test_any_value_in_place_of_another_gives_rows_or_problems(name):
    convert, row = CASES[name]
    chance = random.Random(0)
    for path in places(row):
        for new in (..., *HOSTILE):
            once = changed(row, path, new)
            others = [one for one in places(once) if one]
            twice = changed(once, chance.choice(others), chance.choice(HOSTILE)) if others else once
            for value in (once, twice):
                for made in made_of_row(convert, as_object(value) if name == "ai2d" else value):
                    if name != "json2jsonl" or isinstance(made, Problem):
                        check(made)


@pytest.mark.parametrize("name", CASES)
def test_good_row_gives_a_row(name):
    convert, row = CASES[name]
    made = made_of_row(convert, as_object(row) if name == "ai2d" else row)
    assert isinstance(made[0], dict) and json.dumps(made[0])
