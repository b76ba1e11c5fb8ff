"""PaddleMIX rows: {"image"?: str or list, "conversations": [[user, assistant], ...]}."""

from __future__ import annotations

from ...conversation.messages import Conversation, Message
from .fields import get, row_images, show

SHAPE = '{"image"?: ..., "conversations": [[user, assistant], ...]}'


def matches(row: dict) -> bool:
    """Tell whether the turns are pairs."""
    turns = row.get("conversations")
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], (list, str))


def read(row: dict) -> Conversation:
    """Make a conversation of a row. Raises ValueError for a turn that is not a pair of strings."""
    messages = []
    for index, pair in enumerate(get(row, "conversations", list, "the row")):
        if not isinstance(pair, list) or len(pair) != 2:
            found = f"a list of {len(pair)}" if isinstance(pair, list) else show(pair)
            raise ValueError(f"conversations[{index}]: expected [user, assistant], found {found}")
        for role, text in zip(("user", "assistant"), pair, strict=True):
            if not isinstance(text, str):
                raise ValueError(f"conversations[{index}]: the {role} must say a string, found {show(text)}")
            messages.append(Message(role, text))
    return Conversation(messages, row_images(row))
