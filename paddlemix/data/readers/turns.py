"""What a conversation must be before it can be trained on, whatever format it came in. Messages count from 0."""

from __future__ import annotations

import re

from ...constants import IMAGE_MARK
from ...conversation.messages import Conversation, Message
from ...conversation.render import check_roles
from .errors import EmptyAnswerError, NoTrainedAnswerError, UnsupportedKeyError, WrongRoleError
from .fields import check_unicode, get_text
from .keys import SYSTEM_KEYS, stated_keys

# Of Qwen-VL: a path between two tags. HTML's has its path inside the tag and no end tag.
IMAGE_IN_TEXT = re.compile(r"<img>[^<>\n]+</img>")


def put_system(conversation: Conversation, row: dict) -> Conversation:
    """Return the conversation with the system text at the top of its row in front of it.

    Raises ValueError when the conversation starts with another one.
    """
    if not stated_keys(row, SYSTEM_KEYS):
        return conversation
    text, messages = get_text(row, SYSTEM_KEYS, "the row"), conversation.messages
    if not messages or messages[0].role != "system":
        return Conversation((Message("system", text), *messages), conversation.images)
    if messages[0].text != text:
        raise ValueError("the row has a system text at its top and another one in its first turn: expected one of them")
    return conversation


def drop_leading_answer(conversation: Conversation) -> tuple[Conversation, bool]:
    """Drop an assistant turn that answers nothing, and tell whether there was one.

    Public chat logs that LLaVA was trained on were cut in such a way, and its own loader drops the first turn too
    (LLaVA, llava/train/train.py). An error would refuse published files, so the caller counts and reports instead.
    """
    messages = conversation.messages
    start = 1 if messages and messages[0].role == "system" else 0
    if len(messages) == start or messages[start].role != "assistant":
        return conversation, False
    return Conversation((*messages[:start], *messages[start + 1 :]), conversation.images), True


def check_turns(conversation: Conversation) -> None:
    """Raise BadRowError unless every user turn has an answer, one is trained, and none of those is empty."""
    try:
        check_roles(conversation.messages, add_generation_prompt=False)
    except ValueError as error:
        raise WrongRoleError(str(error)) from error
    answers = [(index, one) for index, one in enumerate(conversation.messages) if one.role == "assistant"]
    if not any(message.is_trained for _, message in answers):
        raise NoTrainedAnswerError("no answer of the row is trained: each of its turns says so")
    for index, message in answers:
        pieces = message.pieces
        if message.is_trained and len(pieces) == 1 and not pieces[0].strip():
            raise EmptyAnswerError(f"message {index}: the answer is empty, so there is nothing to learn")


def check_texts(conversation: Conversation) -> None:
    """Raise ValueError for a text that is no Unicode, UnsupportedKeyError for one that names an image in it."""
    for index, message in enumerate(conversation.messages):
        for piece in message.pieces:
            check_unicode(piece, f"message {index}")
            if IMAGE_IN_TEXT.search(piece):
                raise UnsupportedKeyError(
                    f"message {index}: <img>...</img> names an image in the text, as Qwen-VL's data does, and would be "
                    f"read as text: write {IMAGE_MARK} there, and the image under 'images'"
                )


def check_marks(conversation: Conversation) -> None:
    """Raise ValueError unless pictures stand in user turns alone and are as many as the marks."""
    counts = [message.num_images for message in conversation.messages]
    for index, (message, count) in enumerate(zip(conversation.messages, counts, strict=True)):
        if count and message.role != "user":
            raise ValueError(f"message {index}: {IMAGE_MARK} in the text of {message.role!r}, expected in 'user' only")
    num_marks, num_images = sum(counts), len(conversation.images)
    if num_marks != num_images:
        raise ValueError(
            f"{num_marks} {IMAGE_MARK} marks but {num_images} images: expected as many marks as images, "
            "or no mark at all (the pictures then go before the first user turn)"
        )
