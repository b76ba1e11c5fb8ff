"""ArxivQA: questions about figures of papers, with options and reasons.

Raw file: arxivqa.jsonl with {"id", "image", "question", "options", "label", "rationale"}. Images: ArxivQA/images/.
"""

from __future__ import annotations

import argparse
import re
from functools import partial
from typing import Any

from ..converter import Argument, Converter
from ..job import Job
from ..paths import raw_file, user_path
from ..readers import json_rows
from ..row import Made, Note, RowError, file_name_of, llava_row, object_of, shown, text_of, texts_of

LETTERS = "ABCDEFGHI"
_LETTER = re.compile(r"[\[(]?([A-Ia-i])[\]).:]*")  # as the whole label: "B", "(b)", "[B]"
_LETTER_AND_TEXT = re.compile(r"[\[(]?([A-I])(?:[\]).:]+\s*|\s+)(.+)", re.DOTALL)
_MARK = re.compile(r"[\[(]?[A-Ia-i][\]).:]+\s*")  # before the text of an option


def convert(value: Any) -> list[Made]:
    """Return the row of a question, and a note of how its label was read."""
    row = object_of(value)
    label, rationale = (_optional_text(row, key) for key in ("label", "rationale"))
    if not label and not rationale:
        raise RowError("no answer", "label and rationale are empty")
    options = [one.strip() for one in texts_of(row, "options")] if row.get("options") else []
    how, answer = _answer(label, options)
    question = " ".join([text_of(row, "question"), *options])
    image = f"ArxivQA/{file_name_of(row, 'image')}"
    answer = " ".join(filter(None, (answer, rationale)))
    return [llava_row(text_of(row, "id"), image, question, answer), Note(how)]


def _optional_text(row: dict, key: str) -> str:
    value = row.get(key)
    return "" if value is None or (isinstance(value, str) and not value.strip()) else text_of(row, key).strip()


def _answer(label: str, options: list[str]) -> tuple[str, str]:
    """Return how a label is read, and the option or the text that it stands for.

    Raises RowError for the letter of an option that there is not.
    """
    if not label:
        return "label empty, the rationale is the answer", ""
    if label in options:
        return "label read as the text of an option", label
    letter = _letter(label, options)
    if letter is not None:
        if letter >= len(options):
            raise RowError("no such option", f"the label is {shown(label)}, and there are {len(options)} options")
        return "label read as a letter", options[letter]
    alike = [one for one in options if len(label) > 1 and _bare(one).lower().startswith(label.lower())]
    exact = [one for one in alike if _bare(one).lower() == label.lower()]
    if len(exact or alike) == 1:
        return "label read as the text of an option", (exact or alike)[0]
    return "label read as free text", label


def _letter(label: str, options: list[str]) -> int | None:
    """Return the number of the option whose letter a label is or starts with, None for a text like "Blue" or "A line".

    A letter and a blank count only before the text of its option.
    """
    whole = _LETTER.fullmatch(label)
    if whole:
        return LETTERS.index(whole[1].upper())
    found = _LETTER_AND_TEXT.fullmatch(label)
    if not found:
        return None
    number, is_marked = LETTERS.index(found[1]), not label[found.end(1)].isspace()
    is_option = number < len(options) and _bare(options[number]).startswith(found[2])
    return number if is_marked or is_option else None


def _bare(option: str) -> str:
    return _MARK.sub("", option, count=1) if _MARK.match(option) else option


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """Return the job for the file."""
    path = raw_file(arguments.input_file)
    output = user_path(arguments.output_jsonl_dir) / "arxivqa_llava.jsonl"
    return [Job(output, (path,), partial(json_rows, path), convert)]


CONVERTER = Converter(
    name="arxivqa",
    description="ArxivQA: questions about figures of papers, with options and reasons",
    files="arxivqa.jsonl",
    example="arxivqa --input_file ArxivQA/arxivqa.jsonl --output_jsonl_dir ArxivQA/arxivqa_llava_jsonl",
    arguments=(
        Argument("--input_file", "the file arxivqa.jsonl"),
        Argument("--output_jsonl_dir", "folder to write arxivqa_llava.jsonl into"),
    ),
    jobs=jobs,
)
