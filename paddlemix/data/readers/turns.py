"""Read a list with an object for each turn: its role, its content, and whether it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...conversation.messages import Conversation, Message
from .content import fill, part_objects, read_content
from .errors import UnsupportedKeyError
from .fields import get, get_role, one_key, show, turn_name
from .images import image_objects, row_images
from .keys import TRAINED_KEYS, TURN, Stated

ROLE_KEYS, TEXT_KEYS = ("from", "role"), ("value", "content")
LIST_KEYS = ("conversations", "conversation")


def list_key(row: dict) -> str | None:
    """Return the key of the row's list of turns, None if it has no list or an empty one."""
    return next((key for key in LIST_KEYS if isinstance(row.get(key), list) and row[key]), None)


def list_keys(row: dict) -> set[str]:
    """Return the keys of a row that contain the conversation, if it is a list of turns."""
    return {list_key(row)}


def first_turn(row: dict) -> Any:
    """Return the first turn of that list, None for no list."""
    key = list_key(row)
    return None if key is None else row[key][0]


def read_turns(row: dict, key: str) -> Conversation:
    """Return the conversation of a row with a list of turns under a key.

    An image part names its own image or takes the next one of the row. Raises ValueError for a turn without a known
    role and a text, for an unknown part, and if the numbers of image parts and images differ.
    """
    messages: list[Message] = []
    sources: list[Any] = []
    is_plain = True
    for index, turn in enumerate(get(row, key, list, "the row")):
        owner = turn_name(key, index)
        if not isinstance(turn, dict):
            raise ValueError(f'{owner}: expected {{"from": ..., "value": ...}}, found {show(turn)}')
        role = get_role(turn[one_key(turn, ROLE_KEYS, owner)], owner)
        text_key = one_key(turn, TEXT_KEYS, owner)
        text, images = read_content(turn[text_key], f"{text_key!r} of {owner}")
        messages.append(Message(role, text, is_trained(turn, role, owner)))
        sources += images
        is_plain = is_plain and isinstance(turn[text_key], str)
    images = row_images(row)
    return Conversation(messages, images if is_plain else fill(sources, images))


def stated_in_turns(row: dict, key: str) -> Iterator[Stated]:
    """Yield the objects that `read_turns` reads with the rules of their keys, see `keys.unused_keys`."""
    yield from image_objects(row)
    for index, turn in enumerate(row[key] if isinstance(row[key], list) else ()):
        if not isinstance(turn, dict):
            continue
        owner = turn_name(key, index)
        yield owner, turn, TURN, "a turn"
        for text_key in TEXT_KEYS:
            if isinstance(turn.get(text_key), list):
                yield from part_objects(turn[text_key], f"{text_key!r} of {owner}")


def is_trained(turn: dict, role: str, owner: str) -> bool:
    """Return whether a turn is trained, which an answer is unless its "loss", "train" or "weight" is false or 0.

    Raises UnsupportedKeyError for other weights and for trained questions, ValueError for invalid marks and for marks
    that contradict each other.
    """
    if turn.keys().isdisjoint(TRAINED_KEYS):
        return True
    marks = {key: _mark(turn[key], f"{owner}: {key!r}") for key in TRAINED_KEYS if turn.get(key) is not None}
    if len(set(marks.values())) > 1:
        raise ValueError(f"{owner}: {' and '.join(map(repr, marks))} contradict each other: expected one of them")
    if role != "assistant":
        if any(marks.values()):
            raise UnsupportedKeyError(
                f"{owner}: {next(iter(marks))!r} trains a turn of {role!r}, expected answers only"
            )
        return True
    return all(marks.values())


def check_row(row: dict) -> None:
    """Raise UnsupportedKeyError if the whole row is marked as not trained."""
    for key in TRAINED_KEYS:
        if row.get(key) is not None and not _mark(row[key], f"the row: {key!r}"):
            found = f"the row has {key!r}, {show(row[key])}"
            raise UnsupportedKeyError(f"{found}: leave it out of the file, or mark its answers instead")


def _mark(value: Any, owner: str) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):  # as xtuner takes them
        return value.lower() == "true"
    if isinstance(value, (bool, int, float)):
        if value in (0, 1):
            return bool(value)
        raise UnsupportedKeyError(f"{owner} is {show(value)}: a turn counts fully or not at all, 1 or 0")
    raise ValueError(f"{owner} must be true or false, found {show(value)}")
