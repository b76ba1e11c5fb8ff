"""The images that a row to train on names, also in its turns: list them, and put a folder before them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..data.readers.images import image_source, row_images
from ..data.readers.keys import IMAGE_KEYS, PART_IMAGE_KEYS, stated_keys
from ..data.readers.turns import LIST_KEYS, TEXT_KEYS
from ..image.load import is_address
from .row import RowError

MAX_FOLDER_PARTS = 2
TURN_KEYS = ("messages", *LIST_KEYS)


def images_of(row: Mapping[str, Any]) -> list[str]:
    """Return the images that a row names. Raises RowError if they cannot be read."""
    try:
        return row_images(row) + images_in_turns(row)
    except ValueError as error:
        raise RowError("an image that is not named well", str(error)) from None


def images_in_turns(row: Mapping[str, Any]) -> list[str]:
    """Return the images that parts of turns name. Raises ValueError if they cannot be read."""
    return [
        image_source({"bytes": part[key]} if key == "bytes" else part[key], "a part")
        for part in _parts(row)
        for key in stated_keys(part, PART_IMAGE_KEYS)
    ]


def _parts(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the objects in the contents of turns that are lists."""
    for key in TURN_KEYS:
        turns = row.get(key)
        for turn in turns if isinstance(turns, list) else ():
            contents = [turn.get(one) for one in TEXT_KEYS] if isinstance(turn, dict) else []
            parts = [part for content in contents if isinstance(content, list) for part in content]
            yield from (part for part in parts if isinstance(part, dict))


def with_prefix(row: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return a row with a folder before each of its relative paths of images."""
    if not prefix:
        return row
    prefix = prefix.rstrip("/") + "/"
    images = images_of(row)
    key = next(iter(stated_keys(row, IMAGE_KEYS)), None)
    if images_in_turns(row):
        raise RowError("images in turns", "a turn names an image: --image_prefix takes only images beside the turns")
    if key is None:
        return row
    if not all(isinstance(one, str) for one in (row[key] if isinstance(row[key], list) else [row[key]])):
        raise RowError("an image that is an object", f"{key!r} has an object: --image_prefix takes paths only")
    named = [one if is_address(one) or one.startswith("/") else prefix + one for one in images]
    return {**row, key: named if isinstance(row[key], list) else named[0]}


def folder_of(image: str) -> str:
    """Return where an image comes from: the first folders of its path, or the host of its address."""
    if image[:5].lower() == "data:":
        return "data: URIs"
    if is_address(image):
        return "/".join(image.split("/")[:3])
    parts = image.replace("\\", "/").split("/")[:-1]
    return "/".join(parts[:MAX_FOLDER_PARTS]) or "."
