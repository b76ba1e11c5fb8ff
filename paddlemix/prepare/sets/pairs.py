"""PaddleMIX's rows, {"image"?, "conversations": [[user, assistant], ...]}, to LLaVA's, and back."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...constants import IMAGE_MARK
from ...data.readers.files import format_of, read_row
from ..converter import OUTPUT_DIR, Argument, Converter
from ..job import Convert, Job
from ..paths import output_folder
from ..row import Made, Note, Placed, Problem, RowError
from ..row_images import images_of
from ..training_rows import row_paths, rows_of

MARKED = f"rows with images but no {IMAGE_MARK}: it was put before the first question"
Value = tuple[str, dict[str, Any]]


def named_rows(path: Path) -> Iterator[Placed]:
    """Yield the rows with a name, for those that have no id."""
    for number, row in enumerate(rows_of([path])):
        yield row if isinstance(row.value, Problem) else row._replace(value=(f"{path.stem}_{number}", row.value))


def to_llava(value: Value) -> Iterator[Made]:
    """Yield the row of LLaVA for a row of pairs."""
    name, row = value
    _check(row, "pairs")
    images, turns = images_of(row), []
    for question, answer in row["conversations"]:
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    is_unmarked = images and not any(IMAGE_MARK in turn["value"] for turn in turns)
    if is_unmarked:
        turns[0]["value"] = f"{IMAGE_MARK}\n" * len(images) + turns[0]["value"]
    yield {**_head(name, row), "conversations": turns}
    if is_unmarked:
        yield Note(MARKED)


def to_pairs(value: Value) -> Iterator[Made]:
    """Yield the row of pairs for a row of LLaVA."""
    name, row = value
    _check(row, "llava")
    conversation, notices = read_row(row)
    if any(message.role == "system" for message in conversation.messages):
        raise RowError("a system text", "the row has a system text, which pairs cannot hold")
    if not all(message.is_trained for message in conversation.messages):
        raise RowError("an answer that is not trained", "pairs cannot say that an answer is not trained")
    if not all(isinstance(message.text, str) for message in conversation.messages):
        raise RowError("a turn of parts", "a turn is a list of parts, which pairs cannot hold")
    texts = [message.text for message in conversation.messages]
    yield {**_head(name, row), "conversations": [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]}
    yield from map(Note, notices)


def _check(row: dict[str, Any], form: str) -> None:
    """Raise RowError unless a row has a form and can be trained on."""
    try:
        read_row(row)
    except ValueError as error:
        raise RowError("a row that cannot be trained on", str(error)) from None
    found = format_of(row)
    if found != form or not isinstance(row.get("conversations"), list):
        raise RowError("another form", f"the row has the form {found!r}, expected {form!r} under 'conversations'")


def _head(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return what both forms have: id, image, and whatever else there is."""
    rest = {key: value for key, value in row.items() if key not in ("id", "conversations")}
    return {"id": name if row.get("id") is None else str(row["id"]), **rest}


def jobs(ending: str, convert: Convert, arguments: argparse.Namespace) -> Sequence[Job]:
    """Return a job for each file. PaddleMIX reads only JSON lists."""
    made = []
    for path in row_paths(arguments.input_file):
        output = output_folder(path.parent, arguments.output_dir) / f"{path.stem}_{ending}"
        made.append(Job(output, (path,), partial(named_rows, path), convert))
    return made


def _converter(name: str, text: str, files: str, ending: str, convert: Callable[[Value], Iterator[Made]]) -> Converter:
    arguments = (
        Argument("--input_file", "the file, or several", options={"nargs": "+", "metavar": "FILE"}),
        OUTPUT_DIR,
    )
    return Converter(name, text, files, f"{name} --input_file train.json", arguments, partial(jobs, ending, convert))


PAIRS_TO_LLAVA = _converter(
    "pairs2llava",
    "PaddleMIX's pairs of question and answer to LLaVA's rows",
    'rows {"image"?, "conversations": [[user, assistant], ...]}',
    "llava.jsonl",
    to_llava,
)
LLAVA_TO_PAIRS = _converter(
    "llava2pairs",
    "LLaVA's rows to PaddleMIX's pairs of question and answer",
    'rows {"image"?, "conversations": [{"from", "value"}, ...]}',
    "pairs.json",
    to_pairs,
)
