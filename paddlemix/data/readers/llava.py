"""LLaVA rows: {"id"?, "image"?: str or list, "conversations": [{"from": "human" or "gpt", "value": text}, ...]}."""

from __future__ import annotations

from ...conversation.messages import Conversation, Message
from .fields import get, get_role, row_images, show

SHAPE = '{"image"?: ..., "conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}, ...]}'
ROLES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}


def matches(row: dict) -> bool:
    """Tell whether the turns are objects."""
    turns = row.get("conversations")
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict)


def read(row: dict) -> Conversation:
    """Make a conversation of a row. Raises ValueError for a turn without a known "from" and a string "value"."""
    messages = []
    for index, turn in enumerate(get(row, "conversations", list, "the row")):
        owner = f"conversations[{index}]"
        if not isinstance(turn, dict):
            raise ValueError(f'{owner}: expected {{"from": ..., "value": ...}}, found {show(turn)}')
        role = get_role(get(turn, "from", object, owner), ROLES, owner)
        messages.append(Message(role, get(turn, "value", str, owner)))
    return Conversation(messages, row_images(row))
