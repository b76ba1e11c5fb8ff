"""Captions: COCO's and nocaps' annotation files, and Karpathy's splits of COCO and Flickr30k."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..item import Problem, Record
from .rows import Files, Placed, Read, id_of, image_in, json_list, labels_of, named_id, read_json, records, text_of

SPLIT = "test"


def read(files: Files) -> Read:
    """Read the images of a file with their captions as references. Of Karpathy's files the split test is taken.

    The id is COCO's image id, or the file's name where there is none. A caption that is damaged is a problem of its
    own.
    """
    path = files["questions"]
    placed = [(f"{path.name} image {number}", row) for number, (_, row) in enumerate(json_list(path, "images"), 1)]
    if not placed:
        raise ValueError(f"{path} has no images: expected a caption file of COCO, nocaps or Karpathy")
    if any(isinstance(row, dict) and "sentences" in row for _, row in placed):
        return _karpathy(files, placed)
    return _coco(files, placed)


def _coco(files: Files, placed: list[Placed]) -> Read:
    path, captions = files["questions"], {}
    rows = json_list(path, "annotations") if "annotations" in read_json(path, dict) else []
    problems = list(_gather(rows, captions))

    def make(row: dict) -> Record:
        name, file = id_of(row, "id"), text_of(row, "file_name")
        fields = {"references": captions[name]} if name in captions else {}
        return Record(name, "", (image_in(files["images"], file),), fields=fields, row={"image_id": row["id"]})

    yield from records(placed, make)
    yield from problems


def _gather(rows: list[Placed], captions: dict[str, list[str]]) -> Iterator[Problem]:
    """Add the captions of rows by image to `captions`, and yield the rows that have none."""
    for where, row in rows:
        try:
            captions.setdefault(id_of(row, "image_id"), []).append(text_of(row, "caption"))
        except (KeyError, TypeError, ValueError):
            yield Problem(where, "the annotation is damaged, expected image_id and a caption", named_id(row))


def _karpathy(files: Files, placed: list[Placed]) -> Read:
    def make(row: dict) -> Record:
        file, folder = text_of(row, "filename"), labels_of(row, "filepath").get("filepath")
        name: Any = row.get("cocoid", file)
        texts = [text_of(one, "raw") for one in row["sentences"]]
        image = image_in(files["images"], file, f"{folder}/{file}" if folder else file)
        fields = {"references": texts} if texts else {}
        return Record(id_of({"id": name}, "id"), "", (image,), fields=fields, row={"image_id": name})

    return records([(where, row) for where, row in placed if not _is_of_another_split(row)], make)


def _is_of_another_split(row: Any) -> bool:
    """Return whether a row is not of the split that is taken; one that does not say is kept."""
    return isinstance(row, dict) and row.get("split", SPLIT) != SPLIT
