"""AI2D: questions about diagrams of school books, with options.

Raw files: questions/NAME.png.json, one an image: {"imageName", "questions": {TEXT: {"questionId", "answerTexts",
"correctAnswer", ...}}}. Images: ai2d/images/.
"""

from __future__ import annotations

import argparse
import json
import string
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from ..converter import Argument, Converter
from ..job import Job
from ..paths import RawPath, files_in, opened, raw_folder, user_path
from ..row import Made, Note, Placed, Problem, RowError, file_name_of, llava_row, object_of, shown, text_of, texts_of

MAX_BYTES = 1 << 26  # of a file; the largest ones have some 100 kB


class _Object(dict):
    """A JSON object that keeps repeated keys in `pairs`: the questions of an image are keys, and two can be equal."""

    def __init__(self, pairs: list[tuple[str, Any]]):
        super().__init__(pairs)
        self.pairs = pairs


def question_files(paths: Sequence[RawPath]) -> Iterator[Placed]:
    """Yield the content of each file."""
    for number, path in enumerate(paths, 1):
        with opened(path) as file:
            content = file.read(MAX_BYTES)
        try:
            value = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_Object)
        except (ValueError, RecursionError) as error:
            value = Problem("not JSON in UTF-8", f"the file is not JSON in UTF-8: {error}")
        yield Placed(path.name, value, number / len(paths))


def convert(value: Any) -> Iterator[Made]:
    """Yield a row for each question about an image."""
    row = object_of(value)
    image = file_name_of(row, "imageName")
    questions = row.get("questions")
    if not isinstance(questions, _Object):
        raise RowError("no questions", f"'questions' is {shown(questions)}, expected an object")
    if not questions:
        yield Note("an image without questions")
    for text, details in questions.pairs:
        try:
            yield _question(image, text, object_of(details))
        except RowError as error:
            yield error.problem


def _question(image: str, text: str, details: Mapping[str, Any]) -> dict[str, Any]:
    if not text.strip():
        raise RowError("no question", "the text of the question is empty")
    options, answer = texts_of(details, "answerTexts"), details.get("correctAnswer")
    if len(options) > len(string.ascii_lowercase):
        raise RowError("too many options", f"{len(options)} options, expected at most 26")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(options):
        raise RowError("no such option", f"the answer is {shown(answer)} of {len(options)} options")
    marked = [f"{letter}) {one}" for letter, one in zip(string.ascii_lowercase, options, strict=False)]
    question = " ".join([text, *marked])
    return llava_row(text_of(details, "questionId"), f"ai2d/images/{image}", question, marked[answer])


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """Return the job for a folder of questions."""
    folder = raw_folder(arguments.question_dir)
    paths = files_in(folder, ".json")
    if not paths:
        raise ValueError(f"{folder} has no files NAME.png.json: expected the folder questions of AI2D")
    output = user_path(arguments.output_jsonl_dir) / "ai2d_llava.jsonl"
    return [Job(output, paths, partial(question_files, paths), convert)]


CONVERTER = Converter(
    name="ai2d",
    description="AI2D: questions about diagrams, with options",
    files="the folder questions with NAME.png.json; ai2d-all.zip/ai2d/questions reads it from the archive",
    example="ai2d --question_dir ai2d/questions --output_jsonl_dir ai2d/ai2d_llava_jsonl",
    arguments=(
        Argument("--question_dir", "folder of the questions"),
        Argument("--output_jsonl_dir", "folder to write ai2d_llava.jsonl into"),
    ),
    jobs=jobs,
)
