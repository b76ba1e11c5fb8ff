"""Chat rows: {"messages": [{"role", "content"}, ...], "images"?: list or "image"?: str}, content a string or parts."""

from __future__ import annotations

from typing import Any

from ...constants import IMAGE_MARK
from ...conversation.messages import Conversation, Message
from .fields import get, get_role, image_source, row_images, show

SHAPE = '{"images"?: [...], "messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}, ...]}'
ROLES = {"user": "user", "assistant": "assistant", "system": "system"}
IMAGE_KEYS = ("image_url", "image", "url", "path")  # where a part may name its picture
FROM_ROW = object()  # stands for a picture that the row's "images" names


def matches(row: dict) -> bool:
    """Tell whether the row has messages."""
    return "messages" in row


def read(row: dict) -> Conversation:
    """Make a conversation of a row.

    An image part names its own picture or takes the next one of the row. Raises ValueError for a message without a
    known role and a content, an unknown part, and more image parts than pictures.
    """
    messages: list[Message] = []
    sources: list[Any] = []
    for index, message in enumerate(get(row, "messages", list, "the row")):
        owner = f"messages[{index}]"
        if not isinstance(message, dict):
            raise ValueError(f'{owner}: expected {{"role": ..., "content": ...}}, found {show(message)}')
        role = get_role(get(message, "role", object, owner), ROLES, owner)
        text, images = _read_content(get(message, "content", object, owner), owner)
        messages.append(Message(role, text))
        sources += images
    return Conversation(messages, _fill(sources, row_images(row)))


def _read_content(content: Any, owner: str) -> tuple[str | tuple[str, ...], list]:
    """Return the text of a message and a source, or FROM_ROW, for each of its pictures."""
    if isinstance(content, str):
        return content, [FROM_ROW] * content.count(IMAGE_MARK)
    if not isinstance(content, list):
        raise ValueError(f"{owner}: 'content' must be a string or a list of parts, found {show(content)}")
    pieces, images = [""], []
    for index, part in enumerate(content):
        kind, value = _read_part(part, f"{owner}.content[{index}]")
        if kind == "text":
            pieces[-1] += value
        else:
            pieces.append("")
            images.append(value)
    if not images:
        return pieces[0], [FROM_ROW] * pieces[0].count(IMAGE_MARK)
    if any(IMAGE_MARK in piece for piece in pieces):
        raise ValueError(f"{owner}: has image parts and {IMAGE_MARK} in a text part: use one of the two")
    return _own_lines(pieces), images


def _read_part(part: Any, owner: str) -> tuple[str, Any]:
    """Return ("text", text) or ("image", source)."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return "text", get(part, "text", str, owner)
    if kind in ("image", "image_url"):
        value = next((part[key] for key in IMAGE_KEYS if part.get(key) is not None), FROM_ROW)
        return "image", value if value is FROM_ROW else image_source(value, owner)
    raise ValueError(f'{owner}: expected an object with "type" text, image or image_url, found {show(part)}')


def _own_lines(pieces: list[str]) -> tuple[str, ...]:
    """Put each picture on a line of its own, as LLaVA's own data does; parts carry no line ends."""
    pieces = list(pieces)
    for index in range(1, len(pieces)):
        is_last = index == len(pieces) - 1
        if not pieces[index].startswith("\n") and (pieces[index] or not is_last):
            pieces[index] = "\n" + pieces[index]
        if pieces[index - 1] and not pieces[index - 1].endswith("\n"):
            pieces[index - 1] += "\n"
    return tuple(pieces)


def _fill(sources: list, from_row: list[str]) -> list[str]:
    """Put the pictures of the row where no part names one."""
    num_open = sum(source is FROM_ROW for source in sources)
    if not sources:
        return from_row
    if num_open != len(from_row):
        raise ValueError(
            f"{num_open} image marks or image parts take a picture from 'images', which names {len(from_row)}: "
            "expected as many as there are"
        )
    rest = iter(from_row)
    return [next(rest) if source is FROM_ROW else source for source in sources]
