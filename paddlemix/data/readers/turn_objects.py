"""A list with an object for each turn, under whatever key of a row: who speaks, and what is said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...conversation.messages import Conversation, Message
from .content import fill, part_objects, read_content
from .fields import get, get_role, one_key, show
from .images import image_objects, row_images
from .keys import TURN, Stated
from .trained import is_trained

ROLE_KEYS, TEXT_KEYS = ("from", "role"), ("value", "content")
LIST_KEYS = ("conversations", "conversation")


def list_key(row: dict) -> str | None:
    """Return the key under which a row has a list of turns, None if it has none that is not empty."""
    return next((key for key in LIST_KEYS if isinstance(row.get(key), list) and row[key]), None)


def first_turn(row: dict) -> Any:
    """Return the first turn of that list, None where there is none."""
    key = list_key(row)
    return None if key is None else row[key][0]


def read_turns(row: dict, key: str) -> Conversation:
    """Make a conversation of a row.

    An image part names its own image or takes the next one of the row. Raises ValueError for a turn without a known
    role and a text, an unknown part, and image parts that are not as many as the images.
    """
    messages: list[Message] = []
    sources: list[Any] = []
    is_plain = True
    for index, turn in enumerate(get(row, key, list, "the row")):
        owner = f"{key}[{index}]"
        if not isinstance(turn, dict):
            raise ValueError(f'{owner}: expected {{"from": ..., "value": ...}}, found {show(turn)}')
        role = get_role(turn[one_key(turn, ROLE_KEYS, owner)], owner)
        text_key = one_key(turn, TEXT_KEYS, owner)
        text, images = read_content(turn[text_key], f"{owner}.{text_key}")
        messages.append(Message(role, text, is_trained(turn, role, owner)))
        sources += images
        is_plain = is_plain and isinstance(turn[text_key], str)
    images = row_images(row)
    return Conversation(messages, images if is_plain else fill(sources, images))


def stated_in_turns(row: dict, key: str) -> Iterator[Stated]:
    """Yield the objects that `read_turns` reads, see `keys.unused_keys`."""
    yield from image_objects(row)
    for index, turn in enumerate(row[key] if isinstance(row[key], list) else ()):
        if not isinstance(turn, dict):
            continue
        yield f"{key}[{index}]", turn, TURN, "a turn"
        for text_key in TEXT_KEYS:
            if isinstance(turn.get(text_key), list):
                yield from part_objects(turn[text_key], f"{key}[{index}].{text_key}")
