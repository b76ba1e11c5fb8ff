"""MME: a folder for each of 14 categories, with images and a text file of two questions for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..item import Record
from ..scores.mme import COGNITION, PERCEPTION
from .rows import Files, Placed, Read, image_in, records

ENDINGS = (".jpg", ".png", ".jpeg")
NUM_QUESTIONS = 2


def read_mme(files: Files) -> Read:
    """Read MME's folders; five of them keep images and questions in images/ and questions_answers_YN/.

    files: the folder of the category existence, with the others beside it. The id is CATEGORY/IMAGE/NUMBER; LLaVA's
    answer files name a row CATEGORY/IMAGE. A category that is missing is a problem.
    """
    return records(_questions(files["existence"].parent), _record)


def _questions(root: Path) -> Iterator[Placed]:
    for category in (*PERCEPTION, *COGNITION):
        folder = root / category
        if not folder.is_dir():
            yield f"MME folder {category}", ValueError("the folder is missing")
            continue
        is_split = (folder / "questions_answers_YN").is_dir()
        texts = folder / "questions_answers_YN" if is_split else folder
        images = folder / "images" if is_split else folder
        for path in sorted(texts.glob("*.txt")):
            yield from _in_file(category, path, images)


def _in_file(category: str, path: Path, images: Path) -> Iterator[Placed]:
    """Yield the two questions of an image. A file with another number of them is a problem as a whole."""
    where = f"{category}/{path.name}"
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        lines = []
        yield where, ValueError(f"the file is not UTF-8: {error}")
    else:
        if len(lines) != NUM_QUESTIONS:
            yield where, ValueError(f"the file has {len(lines)} questions, expected {NUM_QUESTIONS}")
            return
    for number, line in enumerate(lines, 1):
        parts = line.split("\t")
        row: Any = {"category": category, "stem": path.stem, "images": images, "number": number, "parts": parts}
        is_good = len(parts) == 2 and parts[1].strip().lower().removesuffix(".") in ("yes", "no")
        error = ValueError(f"the line is {line[:60]!r}, expected a question, a tab and Yes or No")
        yield f"{where} line {number}", row if is_good else error


def _record(row: dict) -> Record:
    image = image_in(row["images"], *(row["stem"] + ending for ending in ENDINGS))
    question, answer = row["parts"]
    category, name = row["category"], image.path.name
    fields = {"answer": answer.strip(), "category": category, "image": name}
    row_out = {"category": category, "image": name, "question": question, "answer": answer.strip()}
    other = (f"{category}/{name}", f"{category}/images/{name}")
    return Record(f"{category}/{name}/{row['number']}", question, (image,), fields=fields, row=row_out, other_ids=other)
