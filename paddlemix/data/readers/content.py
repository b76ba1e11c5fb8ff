"""Read the content of a chat turn: a string, or a list of text parts and image parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...constants import IMAGE_MARK
from .errors import BadRowError, TooFewImagesError, UnsupportedKeyError
from .fields import get, key_names, show
from .images import image_source
from .keys import IMAGE, PART, PART_IMAGE_KEYS, REFUSED, Stated, is_empty, stated_keys

IMAGE_TYPES = ("image", "image_url")
TYPES = ("text", *IMAGE_TYPES)
FROM_ROW = object()  # an image that the row names under "images"


def read_content(content: Any, owner: str) -> tuple[str | tuple[str, ...], list]:
    """Return the text of a message, and a source or FROM_ROW for each image. owner: turn and key, for errors."""
    if isinstance(content, str):
        return content, [FROM_ROW] * content.count(IMAGE_MARK)
    if not isinstance(content, list):
        raise ValueError(f"{owner} must be a string or a list of parts, found {show(content)}")
    pieces, images = [""], []
    for index, part in enumerate(content):
        kind, value = _read_part(part, _part_name(owner, index))
        if kind == "text":
            pieces[-1] += value
        else:
            pieces.append("")
            images.append(value)
    if not images:
        return pieces[0], [FROM_ROW] * pieces[0].count(IMAGE_MARK)
    if any(IMAGE_MARK in piece for piece in pieces):
        raise ValueError(f"{owner} has image parts and {IMAGE_MARK} in a text part: use one of the two")
    return _own_lines(pieces), images


def part_objects(parts: list, owner: str) -> Iterator[Stated]:
    """Yield parts and their images with the rules of their keys, see `keys.unused_keys`."""
    for index, part in enumerate(parts):
        if not (isinstance(part, dict) and part.get("type") in TYPES):
            continue  # an error of `read_content`
        yield _part_name(owner, index), part, PART, "a part"
        values = (part[key] for key in PART_IMAGE_KEYS if isinstance(part.get(key), dict))
        yield from ((_part_name(owner, index), value, IMAGE, "an image") for value in values)


def fill(sources: list, from_row: list[str]) -> list[str]:
    """Return the sources with FROM_ROW replaced by the images of the row, in order."""
    num_open = sum(source is FROM_ROW for source in sources)
    if not sources:
        return from_row
    if num_open != len(from_row):
        error = TooFewImagesError if num_open > len(from_row) else BadRowError
        raise error(
            f"{num_open} image marks or parts need an image from 'images', which has {len(from_row)}: expected equal "
            "numbers"
        )
    rest = iter(from_row)
    return [next(rest) if source is FROM_ROW else source for source in sources]


def _part_name(owner: str, index: int) -> str:
    return f"part {index + 1} of {owner}"


def _read_part(part: Any, owner: str) -> tuple[str, Any]:
    """Return ("text", text) or ("image", source)."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        named = stated_keys(part, PART_IMAGE_KEYS)
        if named:
            raise ValueError(f"{owner} is a text part that has {named[0]!r}: make a separate part for the image")
        return "text", get(part, "text", str, owner)
    if kind in IMAGE_TYPES:
        return "image", _part_image(part, owner)
    if isinstance(kind, str) and (kind in REFUSED or kind == "tool_use"):
        expected = f"expected {', '.join(TYPES[:-1])} or {TYPES[-1]}"
        raise UnsupportedKeyError(f"{owner}: parts of type {kind!r} are not supported, {expected}")
    raise ValueError(f'{owner}: expected an object with "type" text, image or image_url, found {show(part)}')


def _part_image(part: dict, owner: str) -> Any:
    named = stated_keys(part, PART_IMAGE_KEYS)
    if len(named) > 1:
        raise ValueError(f"{owner} has both {named[0]!r} and {named[1]!r}: expected one of them")
    if not is_empty(part.get("text")):
        raise ValueError(f"{owner} is an image part that has 'text': make a separate part for the text")
    if not named:
        known = PART.used | PART.inert
        others = {key: value for key, value in part.items() if key not in known and not is_empty(value)}
        if others:
            raise ValueError(f"{owner}: {key_names(others)} cannot name an image: use {' or '.join(PART_IMAGE_KEYS)}")
        return FROM_ROW
    value = {"bytes": part["bytes"]} if named == ["bytes"] else part[named[0]]
    return image_source(value, owner)


def _own_lines(pieces: list[str]) -> tuple[str, ...]:
    """Add line ends so that each image is on its own line, as in LLaVA's data; parts have no line ends."""
    pieces = list(pieces)
    for index in range(1, len(pieces)):
        is_last = index == len(pieces) - 1
        if not pieces[index].startswith("\n") and (pieces[index] or not is_last):
            pieces[index] = "\n" + pieces[index]
        if pieces[index - 1] and not pieces[index - 1].endswith("\n"):
            pieces[index - 1] += "\n"
    return tuple(pieces)
