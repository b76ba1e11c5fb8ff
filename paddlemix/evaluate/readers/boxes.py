"""RefCOCO, RefCOCO+ and RefCOCOg: phrases and the boxes that they describe.

Read are REFER's own files, refs(unc).p and instances.json, and lists of JSON rows with img_id, sents, bbox, height and
width, as xtuner makes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...prepare.refer_files import in_image, in_square, read_references
from ..item import Record
from .rows import Files, Placed, Read, id_of, image_in, json_list, records, rows_by, text_of


def read_refer(files: Files, split: str) -> Read:
    """Read the phrases of a split (val, testA, testB, test) from REFER's pickle and its instances.json.

    Each phrase is a question. Raises ValueError for a pickle that holds anything but plain values.
    """
    references = [one for one in read_references(files["questions"]) if one.get("split") == split]
    if not references:
        raise ValueError(f"{files['questions']} has no phrases of the split {split!r}")
    images = rows_by(json_list(files["instances"], "images"), "id")
    boxes = rows_by(json_list(files["instances"], "annotations"), "id")

    def make(row: dict) -> Iterator[Record]:
        image, box = _one(images, row, "image_id"), _one(boxes, row, "ann_id")["bbox"]
        size = (image["width"], image["height"])
        source = image_in(files["images"], image["file_name"], f"COCO_train2014_{int(image['id']):012d}.jpg")
        for sentence in row["sentences"]:
            name = f"{row['ref_id']}/{sentence['sent_id']}"
            yield _record(name, text_of(sentence, "sent"), source, box, size, split)

    return records([(f"ref {one.get('ref_id')}", one) for one in references], make)


def _one(rows: dict[str, dict[str, Any]], row: dict, key: str) -> dict[str, Any]:
    name = id_of(row, key)
    if name not in rows:
        raise ValueError(f"instances.json has nothing for {key} {name}")
    return rows[name]


def read_rows(files: Files) -> Read:
    """Read a JSON list of rows with img_id (ends with the image's number), sents, bbox, height and width."""

    def make(row: dict) -> Iterator[Record]:
        name = text_of(row, "img_id")
        number = next((part for part in reversed(name.split("_")) if part.isdigit() and len(part) == 12), name)
        source = image_in(files["images"], f"COCO_train2014_{number}.jpg", f"{number}.jpg", name)
        sentences = row["sents"] if isinstance(row["sents"], list) else [row["sents"]]
        for place, sentence in enumerate(sentences):
            identity = f"{row['number']}/{place}"
            yield _record(
                identity,
                text_of({"sents": sentence}, "sents"),
                source,
                row["bbox"],
                (row["width"], row["height"]),
                None,
            )

    placed: list[Placed] = [
        (where, {**row, "number": number} if isinstance(row, dict) else row)
        for number, (where, row) in enumerate(json_list(files["questions"]))
    ]
    return records(placed, make)


def _record(name: str, phrase: str, source, box, size: tuple[int, int], split: str | None) -> Record:
    left, top, width, height = (float(number) for number in box)
    corners = (left, top, left + width, top + height)
    fields = {"box": in_image(corners, size), "padded_box": in_square(corners, size)}
    if split:
        fields["category"] = split
    return Record(name, phrase, (source,), fields=fields, row={"id": name})
