"""Rows with one question and its answer, and the turns before it.

ms-swift: {"system"?, "query", "response", "history"?: [[user, assistant], ...], "images"?}; Alpaca, as ms-swift and
LLaMA-Factory read it: {"system"?, "instruction", "input"?, "output", "history"?, "images"?}.
"""

from __future__ import annotations

from ...conversation.messages import Conversation, Message
from .exchanges import check_question
from .fields import get
from .images import image_objects, row_images
from .keys import is_empty
from .pairs import read_pairs

SHAPE = '{"images": [...], "query": ..., "response": ...}'
ALPACA = ("instruction", "input")
nested_objects = image_objects


def matches(row: dict) -> bool:
    """Return whether the row itself has a question and an answer."""
    return _is_swift(row) or _is_alpaca(row)


def keys(row: dict) -> set[str]:
    """Return the keys of the row that contain the conversation."""
    return {"history", *(("query", "response") if _is_swift(row) else (*ALPACA, "output"))}


def read(row: dict) -> Conversation:
    """Return the conversation of a row. Raises ValueError for a question, an answer or a history of another type."""
    images = row_images(row)
    history = [] if is_empty(row.get("history")) else read_pairs(row["history"], "history")
    question_key, answer_key = ("query", "response") if _is_swift(row) else (ALPACA[0], "output")
    question = get(row, "query", str, "the row") if _is_swift(row) else _instruction(row)
    check_question(question, repr(question_key), has_image=bool(images) and not history)
    answer = get(row, answer_key, str, "the row")
    return Conversation([*history, Message("user", question), Message("assistant", answer)], images)


def _is_swift(row: dict) -> bool:
    return row.get("query") is not None or row.get("response") is not None


def _is_alpaca(row: dict) -> bool:
    return row.get("output") is not None and any(row.get(key) is not None for key in ALPACA)


def _instruction(row: dict) -> str:
    """Return instruction and input, as far as they are not empty, on separate lines."""
    parts = [get(row, key, str, "the row") for key in ALPACA if row.get(key) is not None]
    return "\n".join(part for part in parts if part)
