"""LLaVA's and ShareGPT's rows: {"image"?, "conversations": [{"from": "human" or "gpt", "value": text}, ...]}.

The list may be called "conversation", and a turn may have "role" and "content" instead.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...conversation.messages import Conversation
from .exchanges import is_exchange
from .keys import Stated
from .turns import ROLE_KEYS, TEXT_KEYS, first_turn, list_key, list_keys, read_turns, stated_in_turns

SHAPE = '{"image": ..., "conversations": [{"from": "human", "value": ...}, ...]}'
keys = list_keys


def matches(row: dict) -> bool:
    """Return whether each turn is an object with one speaker."""
    turn = first_turn(row)
    return isinstance(turn, dict) and (not is_exchange(turn) or bool(turn.keys() & {*ROLE_KEYS, *TEXT_KEYS}))


def nested_objects(row: dict) -> Iterator[Stated]:
    """Yield the objects of the row with the rules of their keys, see `keys.unused_keys`."""
    return stated_in_turns(row, list_key(row))


def read(row: dict) -> Conversation:
    """Return the conversation of a row. Raises ValueError as `turns.read_turns`."""
    return read_turns(row, list_key(row))
