"""Whatever a row holds, the converters and tools for rows make good rows of it, or a problem with a reason."""

from __future__ import annotations

import json
import random

import pytest
from data_sets import row
from hostile_values import HOSTILE, changed, places

from paddlemix.data.readers.files import read_row
from paddlemix.prepare.groups import IMAGE, Links, group_of
from paddlemix.prepare.job import made_of_row
from paddlemix.prepare.llava_rows import LlavaRows
from paddlemix.prepare.row import Note, Problem
from paddlemix.prepare.row_files import encoded
from paddlemix.prepare.row_images import with_prefix
from paddlemix.prepare.sets import pairs, refcoco, scienceqa
from paddlemix.prepare.sets.stats import Counts
from paddlemix.prepare.sets.validate import RowCheck

LLAVA = {**row("x", "coco/train2017/1.jpg"), "model": "", "source": {"a": [1]}}
LLAVA["conversations"] += [{"from": "human", "value": "And?"}, {"from": "gpt", "value": "No.", "loss": True}]
PAIRS = {"id": "x", "image": ["a.jpg", "b.jpg"], "conversations": [["<image><image>Q?", "A."], ["And?", "No."]]}
PARTS = [{"type": "image_url", "image_url": {"url": "a.jpg"}}, {"type": "text", "text": "Q?"}]
CHAT = {"messages": [{"role": "user", "content": PARTS}, {"role": "assistant", "content": "A."}], "system": "S"}
PROBLEM = {"question": "Q?", "choices": ["a", "b"], "answer": 1, "hint": "h", "lecture": "l", "solution": "s"}
PROBLEM |= {"image": "image.png", "split": "train", "subject": "x"}
REFERENCE = {"ref_id": 1, "ann_id": 2, "image_id": 3, "sentences": [{"sent_id": 4, "sent": "a", "raw": "A"}]}
VALUES = [value for value in HOSTILE if not isinstance(value, bytes)]


def changes(value):
    """Yield a row with one and with two values replaced, for each place in it."""
    chance = random.Random(0)
    for path in places(value):
        for new in (..., *VALUES):
            once = changed(value, path, new)
            others = [one for one in places(once) if one]
            yield once
            yield changed(once, chance.choice(others), chance.choice(VALUES)) if others else once


def problems_or_rows(convert, value):
    """Return the rows that are made of a value and can be written; check that each problem has a reason."""
    made = made_of_row(convert, value)
    assert all(one.reason for one in made if isinstance(one, Problem))
    rows = [one for one in made if not isinstance(one, Problem | Note)]
    return [one for one in rows if isinstance(encoded(one), bytes)]


def is_object(convert):
    """Return a converter for values that the reader of files gives only if they are objects."""
    return lambda value: convert(value) if isinstance(value, dict) else []


@pytest.mark.parametrize("start", [LLAVA, PAIRS, CHAT])
@pytest.mark.parametrize(
    "convert",
    [
        LlavaRows(("",), "coco/train2017", None, "data").convert,
        lambda value: pairs.to_llava(("name", value)),
        lambda value: pairs.to_pairs(("name", value)),
    ],
    ids=["llava", "pairs2llava", "llava2pairs"],
)
def test_rows_that_are_made_can_be_trained_on(start, convert):
    for value in changes(start):
        for made in problems_or_rows(is_object(convert), value):
            read_row(made)


@pytest.mark.parametrize("start", [LLAVA, PAIRS, CHAT])
def test_tools_raise_nothing_but_problems(start):
    check, counts = RowCheck((), has_images=False), Counts()
    for value in changes(start):
        problems_or_rows(is_object(lambda row: with_prefix(row, "p")), value)
        problems_or_rows(is_object(lambda row: group_of(row, 0, IMAGE, Links()) and []), value)
        problems_or_rows(is_object(lambda row: group_of(row, 0, "id", Links()) and []), value)
        assert check(json.dumps(value)).get("reason", "x")
        counts.add(value if isinstance(value, dict) else Problem("not an object"))
    assert json.dumps(counts.as_dict())


@pytest.mark.parametrize("name", ["QCM-LEPA", "CQM-A", "released"])
def test_problems_of_scienceqa_give_rows_to_train_on(name):
    form = scienceqa.Form(name, False, True, "images", None)
    for value in changes(PROBLEM):
        for made in problems_or_rows(lambda row: form.convert(("7", row)), value):
            read_row(made)
            assert ".." not in made.get("image", "").split("/")


def test_references_give_rows_to_train_on():
    form = refcoco.Form("llava", "locate", "padded", "sent", "{:012d}.jpg")
    whole = {"reference": REFERENCE, "image": {"id": 3, "width": 9, "height": 5}, "box": [1, 2, 3, 4]}
    for value in changes(whole):
        # the readers of the files give nothing but objects
        if isinstance(value, dict) and value.keys() == whole.keys() and isinstance(value["reference"], dict):
            image = value["image"] if isinstance(value["image"], dict) else {}
            for made in problems_or_rows(form.convert, (value["reference"], {3: image}, {2: value["box"]})):
                read_row(made)
