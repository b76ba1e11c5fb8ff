"""Rows with an object for each question and its answer.

xtuner (xtuner/dataset/utils.py, encode_fn): {"image"?, "conversation": [{"system"?, "input", "output",
"output_with_loss"?, "need_eos_token"?, "sep"?}, ...]}; ms-swift: {"system"?, "conversation": [{"human", "assistant"}]}.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...conversation.messages import Conversation, Message
from .fields import get, get_text, show, turn_name
from .images import image_objects, row_images
from .keys import EXCHANGE, Stated, is_empty
from .turns import first_turn, is_trained, list_key, list_keys

SHAPE = '{"image": ..., "conversation": [{"input": ..., "output": ...}, ...]}'
keys = list_keys
QUESTION_KEYS, ANSWER_KEYS = ("input", "human", "user", "query"), ("output", "assistant", "gpt", "response")


def matches(row: dict) -> bool:
    """Return whether each turn is an object with a question and its answer."""
    turn = first_turn(row)
    return isinstance(turn, dict) and is_exchange(turn)


def is_exchange(turn: dict) -> bool:
    """Return whether a turn has a question or an answer instead of a speaker."""
    return bool(turn.keys() & {*QUESTION_KEYS, *ANSWER_KEYS})


def nested_objects(row: dict) -> Iterator[Stated]:
    """Yield the objects of the row with the rules of their keys, see `keys.unused_keys`."""
    yield from image_objects(row)
    key = list_key(row)
    for index, turn in enumerate(row[key]):
        if isinstance(turn, dict):
            yield turn_name(key, index), turn, EXCHANGE, "a turn"


def read(row: dict) -> Conversation:
    """Return the conversation of a row. Raises ValueError for a turn without a question and an answer."""
    key, images = list_key(row), row_images(row)
    messages: list[Message] = []
    for index, turn in enumerate(row[key]):
        owner = turn_name(key, index)
        if not isinstance(turn, dict):
            raise ValueError(f'{owner}: expected {{"input": ..., "output": ...}}, found {show(turn)}')
        if not is_empty(turn.get("system")):
            if index:
                raise ValueError(f"{owner} has 'system': only the first turn may have a system text")
            messages.append(Message("system", get(turn, "system", str, owner)))
        question = get_text(turn, QUESTION_KEYS, owner)
        check_question(question, owner, has_image=bool(images) and index == 0)
        answer = get_text(turn, ANSWER_KEYS, owner)
        messages += [Message("user", question), Message("assistant", answer, is_trained(turn, "assistant", owner))]
    return Conversation(messages, images)


def check_question(question: str, owner: str, *, has_image: bool) -> None:
    """Raise ValueError for an empty question: its answer would be plain text for pre-training."""
    if not question.strip() and not has_image:
        raise ValueError(f"{owner}: the question is empty; rows of plain text for pre-training are not supported")
