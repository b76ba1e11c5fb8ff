"""Captions: COCO's and nocaps' annotation files, and Karpathy's splits of COCO and Flickr30k."""

from __future__ import annotations

from typing import Any

from ..item import Record
from .rows import Files, Read, image_in, read_json, records, text_of

SPLIT = "test"


def read(files: Files) -> Read:
    """Read the images of a file with their captions as references. Of Karpathy's files the split test is taken.

    The id is COCO's image id, or the file's name where there is none.
    """
    found = read_json(files["questions"], dict)
    images = found.get("images")
    if not isinstance(images, list) or not images:
        raise ValueError(f"{files['questions']} has no images: expected a caption file of COCO, nocaps or Karpathy")
    rows = _karpathy(images) if "sentences" in images[0] else _coco(images, found.get("annotations") or [])
    placed = [(f"{files['questions'].name} image {row['id']}", row) for row in rows]

    def make(row: dict) -> Record:
        fields = {"references": row["captions"]} if row["captions"] else {}
        name = text_of(row, "file")
        image = image_in(files["images"], name, f"{row['folder']}/{name}" if row["folder"] else name)
        return Record(str(row["id"]), "", (image,), fields=fields, row={"image_id": row["id"]})

    return records(placed, make)


def _coco(images: list[dict], annotations: list[dict]) -> list[dict[str, Any]]:
    captions: dict[Any, list[str]] = {}
    for one in annotations:
        captions.setdefault(one["image_id"], []).append(one["caption"])
    return [
        {"id": one["id"], "file": one["file_name"], "folder": "", "captions": captions.get(one["id"], [])}
        for one in images
    ]


def _karpathy(images: list[dict]) -> list[dict[str, Any]]:
    return [
        {
            "id": one.get("cocoid", one["filename"]),
            "file": one["filename"],
            "folder": one.get("filepath", ""),
            "captions": [sentence["raw"] for sentence in one["sentences"]],
        }
        for one in images
        if one["split"] == SPLIT
    ]
