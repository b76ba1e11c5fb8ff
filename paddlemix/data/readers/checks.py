"""Check that a conversation can be trained on, whatever its format was. Errors count messages from 1."""

from __future__ import annotations

import re

from ...constants import IMAGE_MARK
from ...conversation.messages import Conversation, Message, check_unicode
from ...conversation.render import check_roles
from ...terminal.sizes import plural
from .errors import BadRowError, TooFewImagesError, UnsupportedKeyError
from .fields import get_text
from .keys import SYSTEM_KEYS, stated_keys

# Qwen-VL's form: a path between two tags. In HTML the path is inside the tag, and there is no end tag.
IMAGE_IN_TEXT = re.compile(r"<img>[^<>\n]+</img>")


def add_system(conversation: Conversation, row: dict) -> Conversation:
    """Return the conversation with the system text of its row, if there is one, as the first message.

    Raises ValueError if the conversation starts with another system text.
    """
    if not stated_keys(row, SYSTEM_KEYS):
        return conversation
    text, messages = get_text(row, SYSTEM_KEYS, "the row"), conversation.messages
    if not messages or messages[0].role != "system":
        return Conversation((Message("system", text), *messages), conversation.images)
    if messages[0].text != text:
        raise ValueError("the row has one system text under a key and another in its first turn: expected one of them")
    return conversation


def drop_leading_answer(conversation: Conversation) -> tuple[Conversation, bool]:
    """Return the conversation without an answer before the first question, and whether there was one.

    The public chat logs that LLaVA was trained on are cut like this, and its own loader drops the first turn, too
    (LLaVA, llava/train/train.py). An error would refuse published files, so the caller counts and reports instead.
    """
    messages = conversation.messages
    start = 1 if messages and messages[0].role == "system" else 0
    if len(messages) == start or messages[start].role != "assistant":
        return conversation, False
    return Conversation((*messages[:start], *messages[start + 1 :]), conversation.images), True


def check_turns(conversation: Conversation) -> None:
    """Raise BadRowError unless each question has an answer, at least one is trained, and no trained one is empty."""
    try:
        check_roles(conversation.messages, add_generation_prompt=False)
    except ValueError as error:
        raise BadRowError(str(error), "wrong_role") from error
    answers = [(index, one) for index, one in enumerate(conversation.messages) if one.role == "assistant"]
    if not any(message.is_trained for _, message in answers):
        raise BadRowError("no answer of the row is trained: all of them are marked as not trained", "nothing_trained")
    for index, message in answers:
        pieces = message.pieces
        if message.is_trained and len(pieces) == 1 and not pieces[0].strip():
            raise BadRowError(f"message {index + 1}: the answer is empty, so there is nothing to learn", "empty_answer")


def check_texts(conversation: Conversation) -> None:
    """Raise ValueError for text that is not valid Unicode, UnsupportedKeyError for an image path in a text."""
    for index, message in enumerate(conversation.messages):
        for piece in message.pieces:
            check_unicode(piece, f"message {index + 1}")
            if IMAGE_IN_TEXT.search(piece):
                raise UnsupportedKeyError(
                    f"message {index + 1}: <img>...</img> names an image in the text, as in Qwen-VL's data, and would "
                    f"be trained as text: write {IMAGE_MARK} instead, and the path under 'images'"
                )


def check_marks(conversation: Conversation) -> None:
    """Raise ValueError unless only user turns have image marks, as many as there are images."""
    counts = [message.num_images for message in conversation.messages]
    for index, (message, count) in enumerate(zip(conversation.messages, counts, strict=True)):
        if count and message.role != "user":
            raise ValueError(
                f"message {index + 1}: {IMAGE_MARK} in the text of {message.role!r}, expected in 'user' only"
            )
    num_marks, num_images = sum(counts), len(conversation.images)
    if num_marks != num_images:
        error = TooFewImagesError if num_marks > num_images else BadRowError
        raise error(
            f"{plural(num_marks, f'{IMAGE_MARK} mark')} but {plural(num_images, 'image')}: expected as many "
            "marks as images, or no mark at all (the images then go before the first question)"
        )
