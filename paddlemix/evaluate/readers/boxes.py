"""RefCOCO, RefCOCO+ and RefCOCOg: phrases and the boxes that they describe.

Read are REFER's own files, refs(unc).p and instances.json, and lists of JSON rows with img_id, sents, bbox, height and
width, as xtuner makes them.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..item import Record
from .rows import Files, Placed, Read, image_in, json_list, read_json, records, text_of

Box = tuple[float, float, float, float]


class _PlainUnpickler(pickle.Unpickler):
    """Read lists, dicts, texts and numbers; refuse everything that would run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"the file wants to load {module}.{name}, which lists of phrases do not need")


def read_refer(files: Files, split: str) -> Read:
    """Read the phrases of a split (val, testA, testB, test) from REFER's pickle and its instances.json.

    Each phrase is a question. Raises ValueError for a pickle that holds anything but plain values.
    """
    references = [one for one in _unpickled(files["questions"]) if one.get("split") == split]
    if not references:
        raise ValueError(f"{files['questions']} has no phrases of the split {split!r}")
    found = read_json(files["instances"], dict)
    images = {one["id"]: one for one in found["images"]}
    boxes = {one["id"]: one["bbox"] for one in found["annotations"]}

    def make(row: dict) -> Iterator[Record]:
        image = images[row["image_id"]]
        size = (image["width"], image["height"])
        source = image_in(files["images"], image["file_name"], f"COCO_train2014_{int(image['id']):012d}.jpg")
        for sentence in row["sentences"]:
            name = f"{row['ref_id']}/{sentence['sent_id']}"
            yield _record(name, text_of(sentence, "sent"), source, boxes[row["ann_id"]], size, split)

    return records([(f"ref {one.get('ref_id')}", one) for one in references], make)


def _unpickled(path: Path) -> list[dict]:
    try:
        with path.open("rb") as file:
            value = _PlainUnpickler(file).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a file of REFER: {error}") from None
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError(f"{path} holds a {type(value).__name__}, expected a list of references")
    return value


def read_rows(files: Files) -> Read:
    """Read a JSON list of rows with img_id (ends with the image's number), sents, bbox, height and width."""

    def make(row: dict) -> Iterator[Record]:
        name = text_of(row, "img_id")
        number = next((part for part in reversed(name.split("_")) if part.isdigit() and len(part) == 12), name)
        source = image_in(files["images"], f"COCO_train2014_{number}.jpg", f"{number}.jpg", name)
        sentences = row["sents"] if isinstance(row["sents"], list) else [row["sents"]]
        for place, sentence in enumerate(sentences):
            identity = f"{row['number']}/{place}"
            yield _record(identity, sentence, source, row["bbox"], (row["width"], row["height"]), None)

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


def in_image(corners: Box, size: tuple[int, int]) -> Box:
    """Return a box (left, top, right, bottom, px) as fractions of the image's (width, height)."""
    width, height = size
    return corners[0] / width, corners[1] / height, corners[2] / width, corners[3] / height


def in_square(corners: Box, size: tuple[int, int]) -> Box:
    """Return a box as fractions of the image padded to a square, centered, in which LLaVA's training has boxes.

    Source: haotian-liu/LLaVA issue 606.
    """
    side = max(size)
    x, y = (side - size[0]) / 2, (side - size[1]) / 2
    return (corners[0] + x) / side, (corners[1] + y) / side, (corners[2] + x) / side, (corners[3] + y) / side
