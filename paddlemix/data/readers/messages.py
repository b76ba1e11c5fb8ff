"""Chat rows: {"messages": [{"role", "content"}, ...], "images"?: list or "image"?: str}, content a string or parts."""

from __future__ import annotations

from collections.abc import Iterator

from ...conversation.messages import Conversation
from .keys import Stated
from .turns import read_turns, stated_in_turns

SHAPE = '{"images": [...], "messages": [{"role": "user", "content": ...}, ...]}'


def matches(row: dict) -> bool:
    """Return whether the row has messages."""
    return row.get("messages") is not None


def keys(row: dict) -> set[str]:
    """Return the keys of the row that contain the conversation."""
    return {"messages"}


def nested_objects(row: dict) -> Iterator[Stated]:
    """Yield the objects of the row with the rules of their keys, see `keys.unused_keys`."""
    return stated_in_turns(row, "messages")


def read(row: dict) -> Conversation:
    """Return the conversation of a row. Raises ValueError as `turns.read_turns`."""
    return read_turns(row, "messages")
