"""POPE: coco_pope_{adversarial,popular,random}.json, one JSON object a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from ..item import Record
from .rows import Files, Placed, Read, id_of, image_in, json_lines, records, text_of

# What LLaVA adds to the ids of a category in its llava_pope_test.jsonl and answer files.
LLAVA_IDS: Mapping[str, int] = MappingProxyType({"adversarial": 0, "popular": 20_000_000, "random": 10_000_000})


def read(files: Files) -> Read:
    """Read the three files. Ids are CATEGORY/question_id. The texts have mistakes ("in the imange"), which stay."""

    def make(row: dict) -> Record:
        category, label, name = row["category"], text_of(row, "label").strip().lower(), int(row["question_id"])
        if label not in ("yes", "no"):
            raise ValueError(f"the label is {label!r}, expected yes or no")
        image = image_in(files["images"], text_of(row, "image"))
        llava_id = LLAVA_IDS[category] + name
        return Record(
            f"{category}/{id_of(row, 'question_id')}",
            text_of(row, "text"),
            (image,),
            fields={"answer": label, "category": category, "image": row["image"]},
            row={"question_id": llava_id},
            other_ids=(str(llava_id),),
        )

    return records(_all(files), make)


def _all(files: Files) -> Iterator[Placed]:
    for category in LLAVA_IDS:
        for where, row in json_lines(files[category]):
            yield where, {**row, "category": category} if isinstance(row, dict) else row
