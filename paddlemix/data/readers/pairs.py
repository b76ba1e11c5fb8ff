"""PaddleMIX rows: {"image"?: str or list, "conversations": [[user, assistant], ...]}."""

from __future__ import annotations

from typing import Any

from ...conversation.messages import Conversation, Message
from .fields import show, turn_name
from .images import image_objects, row_images
from .turns import first_turn, list_key, list_keys

SHAPE = '{"image": ..., "conversations": [[question, answer], ...]}'
keys, nested_objects = list_keys, image_objects


def matches(row: dict) -> bool:
    """Return whether the turns are pairs."""
    return isinstance(first_turn(row), (list, str))


def read(row: dict) -> Conversation:
    """Return the conversation of a row. Raises ValueError for a turn that is not a pair of strings."""
    key = list_key(row)
    return Conversation(read_pairs(row[key], key), row_images(row))


def read_pairs(pairs: Any, owner: str) -> list[Message]:
    """Return the messages of a list of pairs. Raises ValueError for anything else."""
    if not isinstance(pairs, list):
        raise ValueError(f"{owner!r} must be a list of [user, assistant], found {show(pairs)}")
    messages = []
    for index, pair in enumerate(pairs):
        if not isinstance(pair, list) or len(pair) != 2:
            found = f"a list of {len(pair)}" if isinstance(pair, list) else show(pair)
            raise ValueError(f"{turn_name(owner, index)}: expected [user, assistant], found {found}")
        for role, text in zip(("user", "assistant"), pair, strict=True):
            if not isinstance(text, str):
                raise ValueError(f"{turn_name(owner, index)}: the {role} text must be a string, found {show(text)}")
            messages.append(Message(role, text))
    return messages
