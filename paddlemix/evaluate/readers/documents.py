"""DocVQA, InfographicVQA and ChartQA: questions on scanned pages and charts, in their own files."""

from __future__ import annotations

from pathlib import Path

from ..item import Record
from .rows import Files, Placed, Read, id_of, image_in, json_list, records, text_of, texts_of

HALVES = ("human", "augmented")


def read_docvqa(files: Files) -> Read:
    """Read val_v1.0_withQT.json or test_v1.0.json of DocVQA's first task, or the same files of InfographicVQA.

    Images are looked for by their name alone, too. The files of the test have no answers.
    """

    def make(row: dict) -> Record:
        key = "image_local_name" if "image_local_name" in row else "image"
        name, path = id_of(row, "questionId"), text_of(row, key)
        fields = {"answers": texts_of(row, "answers")} if "answers" in row else {}
        image = image_in(files["images"], path, Path(path).name)
        row_out = {"questionId": int(name)}
        return Record(name, text_of(row, "question"), (image,), fields=fields, row=row_out)

    return records(json_list(files["questions"], "data"), make)


def read_chartqa(files: Files) -> Read:
    """Read test_human.json and test_augmented.json of ChartQA. The id is HALF/NUMBER, as the files have none."""
    placed: list[Placed] = []
    for half in HALVES:
        rows = json_list(files[half]) if half in files else []
        placed += [(where, _numbered(row, half, number)) for number, (where, row) in enumerate(rows)]

    def make(row: dict) -> Record:
        label = row["label"]
        if isinstance(label, bool) or not isinstance(label, str | int | float) or label == "":
            raise ValueError(f"'label' is {label!r}, expected a text or a number")
        fields = {"answer": str(label), "category": row["half"]}
        image = image_in(files["images"], text_of(row, "imgname"))
        row_out = {"imgname": row["imgname"]}
        return Record(row["id"], text_of(row, "query"), (image,), fields=fields, row=row_out)

    return records(placed, make)


def _numbered(row: object, half: str, number: int) -> object:
    return {**row, "half": half, "id": f"{half}/{number}"} if isinstance(row, dict) else row
