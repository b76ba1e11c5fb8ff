"""Render a conversation to segments: text, special tokens and images in order, and whether each is trained.

A conversation renders to the segments of its turns one after the other, so that a chat renders only the new turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .messages import Conversation, Message
from .templates import IMAGE_MARKS, ChatTemplate


@dataclass(frozen=True)
class Segment:
    """A piece of a rendered conversation.

    kind "text": plain text, in which nothing is special, not even `</s>`.
    kind "special": exactly one special token of the tokenizer, by its text.
    kind "image": one image (text is empty); tokenizing repeats its placeholder.
    is_skipped_answer: part of an untrained answer. Its text is not joined with the untrained text around it, so that
    its token ids are the same as in a trained answer.
    """

    text: str
    is_trained: bool
    kind: Literal["text", "special", "image"] = "text"
    is_skipped_answer: bool = False


def render(conversation: Conversation, template: ChatTemplate, *, add_generation_prompt: bool = False) -> list[Segment]:
    """Return the segments of a conversation.

    The conversation ends with an answer, or with add_generation_prompt with a question; then the last segment starts
    the answer. Raises ValueError, with the index of the message, if the roles do not alternate.
    """
    messages = conversation.messages
    check_roles(messages, add_generation_prompt=add_generation_prompt)
    system = None
    if messages[0].role == "system":
        system, messages = _system_text(messages[0]), messages[1:]
    segments = []
    for index, message in enumerate(messages):
        if message.role == "user":
            segments += render_turn(message, template, is_first=index == 0, system=system)
        else:
            segments += render_answer(message, template)
    return segments


def render_turn(
    message: Message, template: ChatTemplate, *, is_first: bool, system: str | None = None
) -> list[Segment]:
    """Return one question, up to the start of its answer.

    system: text of the system block in the first turn; None takes the template's. The end of the answer before belongs
    to that answer (see `render_closing`).
    """
    if message.role != "user":
        raise ValueError(f"a turn starts with a user message, found role {message.role!r}")
    if template.is_prompt_text_dropped:
        return _image(template) * message.num_images + _marked(template, template.answer_prefix)
    system = template.system if system is None else system
    segments = _marked(template, template.start) if is_first else []
    if not is_first:
        segments += _marked(template, template.turn_separator)
    elif not template.is_system_in_user:
        segments += _system_block(template, system)
        segments += _examples(template)
    segments += _marked(template, template.user_prefix)
    if is_first and template.is_system_in_user:
        segments += _system_block(template, system)
    segments += _content(message, template, is_trained=False)
    return segments + _marked(template, template.user_suffix) + _marked(template, template.answer_prefix)


def render_answer(message: Message, template: ChatTemplate) -> list[Segment]:
    """Return one answer with its end mark, all of it trained, or none if the message is not trained."""
    if message.role != "assistant":
        raise ValueError(f"an answer is an assistant message, found role {message.role!r}")
    lead = _text(template.answer_lead, is_trained=True)
    segments = lead + _content(message, template, is_trained=True) + render_closing(template)
    if message.is_trained:
        return segments
    return [replace(segment, is_trained=False, is_skipped_answer=True) for segment in segments]


def render_closing(template: ChatTemplate) -> list[Segment]:
    """Return the end of an answer. A chat adds it after an answer that was cut before its end mark."""
    tail = _text(template.answer_tail, is_trained=True)
    return [*tail, Segment(template.answer_end, True, "special" if template.is_end_special else "text")]


def check_roles(messages: Sequence[Message], *, add_generation_prompt: bool) -> None:
    """Raise ValueError unless roles are [system], user, assistant, user, ... and the last one fits the purpose."""
    start = 1 if messages and messages[0].role == "system" else 0
    if len(messages) == start:
        raise ValueError("the conversation has no user message: expected user and assistant in turn")
    for index, message in enumerate(messages[start:], start=start):
        expected = "user" if (index - start) % 2 == 0 else "assistant"
        if message.role != expected:
            rule = "system may only come first, then user and assistant in turn"
            raise ValueError(f"message {index + 1} has role {message.role!r}, expected {expected!r}: {rule}")
    last = len(messages) - 1
    if add_generation_prompt and messages[last].role != "user":
        raise ValueError(
            f"message {last + 1}, the last one, is an answer already: to generate, end with a user message"
        )
    if not add_generation_prompt and messages[last].role != "assistant":
        raise ValueError(f"message {last + 1}, the last one, has role 'user': to train, end with an assistant message")


def place_images(conversation: Conversation) -> tuple[Conversation, bool]:
    """Return the conversation with a mark for every image, and whether marks were added.

    If there are no marks, the images go before the first question, each on its own line. Raises ValueError if there are
    marks, but not as many as images.
    """
    num_images, num_marks = len(conversation.images), conversation.num_marks
    if num_images == num_marks:
        return conversation, False
    if num_marks:
        raise ValueError(f"the texts have {num_marks} <image> marks for {num_images} images: expected one mark each")
    messages = list(conversation.messages)
    index = next((index for index, message in enumerate(messages) if message.role == "user"), None)
    if index is None:
        raise ValueError(f"there are {num_images} images but no user message for them")
    messages[index] = Message.typed(messages[index].pieces[0], num_images)
    return Conversation(messages, conversation.images), True


def _system_text(message: Message) -> str:
    if message.num_images:
        raise ValueError(f"message 1, the system text, has {message.num_images} <image> marks: move them to a question")
    return message.pieces[0]


def _system_block(template: ChatTemplate, system: str) -> list[Segment]:
    """Return prefix, text and suffix, or nothing if there is no text."""
    if not system:
        return []
    return _marked(template, template.system_prefix) + _text(system) + _marked(template, template.system_suffix)


def _examples(template: ChatTemplate) -> list[Segment]:
    """Return the example turns, untrained, with the separator after each."""
    segments = []
    for question, answer in template.examples:
        segments += _marked(template, template.user_prefix) + _text(question) + _marked(template, template.user_suffix)
        segments += _marked(template, template.answer_prefix) + _text(template.answer_lead + answer)
        segments += _text(template.answer_tail) + _marked(template, template.answer_end + template.turn_separator)
    return segments


def _content(message: Message, template: ChatTemplate, *, is_trained: bool) -> list[Segment]:
    """Return the text of a message with its images in between."""
    first, *rest = message.pieces
    segments = _text(first, is_trained)
    for piece in rest:
        segments += [*_image(template, is_trained), *_text(piece, is_trained)]
    return segments


def _image(template: ChatTemplate, is_trained: bool = False) -> list[Segment]:
    """Return an image, between its marks if the model has them.

    NOTE: LLaVA trains the marks of an image in an answer, as text, and its stage 1 for captions alone ("plain") renders
    an image without marks (llava/train/train.py). Here they are around every image.
    """
    image = Segment("", False, "image")
    if not template.has_image_marks:
        return [image]
    start, end = (Segment(mark, is_trained, "special") for mark in IMAGE_MARKS)
    return [start, image, end]


def _text(text: str, is_trained: bool = False) -> list[Segment]:
    return [Segment(text, is_trained)] if text else []


def _marked(template: ChatTemplate, text: str) -> list[Segment]:
    """Split a string of the template, never of a user, into special tokens and the text between them."""
    if not template.special_tokens:
        return _text(text)
    pattern = "|".join(map(re.escape, template.special_tokens))
    parts = re.split(f"({pattern})", text)
    kinds = ("text", "special")
    return [Segment(part, False, kinds[index % 2]) for index, part in enumerate(parts) if part]
