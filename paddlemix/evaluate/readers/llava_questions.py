"""LLaVA's question files: one JSON object a line with question_id, image, text and category.

Their texts end with the instruction of LLaVA's prompt, and those of TextVQA have a line of OCR tokens. Both are taken
apart here, so that the prompt can be made in any style; in LLaVA's it is the same text again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..item import Record
from ..prompt_texts import OCR_LINE, OPTION_LETTER, SINGLE_WORD, UNANSWERABLE
from .rows import Files, Read, id_of, image_in, json_lines, labels_of, records, text_of


def read(files: Files) -> Read:
    """Read the questions of a file without answers; ids are LLaVA's."""

    def make(row: dict) -> Record:
        name = id_of(row, "question_id")
        question, ocr = split_text(text_of(row, "text"))
        fields = labels_of(row, "category")
        image = image_in(files["images"], text_of(row, "image"))
        row_out = {"question_id": row["question_id"], "image": row["image"]}
        return Record(name, question, (image,), ocr=ocr, fields=fields, row=row_out)

    return records(json_lines(files["questions"]), make)


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file with their texts taken apart into "text" and "ocr". Raises ValueError for a bad line."""
    for where, row in json_lines(path):
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise ValueError(f"{where} is not a question of LLaVA: expected question_id, image and text")
        question, ocr = split_text(row["text"])
        yield {**row, "text": question, "ocr": ocr}


def split_text(text: str) -> tuple[str, str | None]:
    """Return the question alone, and the OCR tokens if there is a line of them."""
    for ending in (UNANSWERABLE + SINGLE_WORD, SINGLE_WORD, OPTION_LETTER):
        if text.endswith(ending):
            text = text.removesuffix(ending)
            break
    question, found, ocr = text.partition(OCR_LINE)
    return question, ocr if found else None
