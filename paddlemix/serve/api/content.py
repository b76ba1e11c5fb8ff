"""From the messages of a request to those of a conversation, with the sources of its images in order.

Parts of a content, and neighboring messages of one role, are joined by a newline, images included, unless there is one
already: LLaVA was trained with each image on a line of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ...conversation.messages import Message
from ..errors import ApiError
from ..settings import Limits
from .json_body import kind_of, shown

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
DETAILS = ("auto", "low", "high")


@dataclass(frozen=True)
class ImageSource:
    """Where an image comes from. param: its place in the request."""

    url: str
    param: str
    is_low_detail: bool


@dataclass(frozen=True)
class Chat:
    """A conversation as it was sent. is_continued: its last message is the beginning of the answer."""

    messages: tuple[Message, ...]
    images: tuple[ImageSource, ...]
    is_continued: bool


Item = str | ImageSource


@dataclass(frozen=True)
class _Sent:
    """A message as it was sent, with its place in the request."""

    param: str
    role: str
    items: list[Item]


def read_messages(values: list[Any], *, is_continued: bool, limits: Limits) -> Chat:
    """Return the conversation of a request. Raises ApiError that names the message."""
    if not values:
        raise _wrong("messages", "messages is empty: expected at least one message of the user")
    sent = [_read_message(value, f"messages[{index}]") for index, value in enumerate(values)]
    images = tuple(item for message in sent for item in message.items if isinstance(item, ImageSource))
    if len(images) > limits.max_images:
        raise ApiError(
            400,
            f"the messages have {len(images)} images: this server takes at most {limits.max_images} in a request",
            param="messages",
            code="too_many_images",
        )
    groups = [(role, list(group)) for role, group in groupby(sent, key=lambda message: message.role)]
    _check_turns(groups, is_continued)
    messages = [Message(role, _joined(item for one in group for item in one.items)) for role, group in groups]
    return Chat(tuple(messages), images, is_continued)


def _check_turns(groups: list[tuple[str, list[_Sent]]], is_continued: bool) -> None:
    """Raise ApiError unless the roles are [system], user, assistant, user ..., with the right one at the end."""
    start = int(groups[0][0] == "system")
    if len(groups) == start:
        raise _wrong("messages", "messages has no message of the user: expected user and assistant in turn")
    for index, (role, group) in enumerate(groups[start:]):
        expected = ("user", "assistant")[index % 2]
        if role != expected:
            rule = "system texts come first, then user and assistant in turn"
            raise _wrong(group[0].param, f"{group[0].param} has the role {role!r}, expected {expected!r}: {rule}")
    role, group = groups[-1]
    param = group[-1].param
    if role == "assistant" and not is_continued:
        raise _wrong(
            param,
            f"{param}, the last one, is the assistant's: end with the user's, or send continue_final_message: true",
        )
    if role != "assistant" and is_continued:
        raise _wrong(param, f"{param}, the last one, is the user's: continue_final_message needs one of the assistant")


def _read_message(value: Any, param: str) -> _Sent:
    if not isinstance(value, dict):
        raise _wrong(param, f"{param} is a JSON {kind_of(value)}: expected an object with role and content")
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise _wrong(f"{param}.role", f"{param}.role is {shown(role)}: expected system, developer, user or assistant")
    for name in ("tool_calls", "function_call", "audio"):
        if value.get(name):
            raise _wrong(f"{param}.{name}", f"{param}.{name} is not supported: send text only", "unsupported_parameter")
    content = value.get("content")
    if content is None and isinstance(value.get("refusal"), str):
        content = value["refusal"]
    return _Sent(param, ROLES[role], list(_read_content(content, f"{param}.content", is_user=role == "user")))


def _read_content(content: Any, param: str, *, is_user: bool) -> Iterator[Item]:
    if isinstance(content, str):
        yield _checked(content, param)
        return
    if not isinstance(content, list):
        raise _wrong(param, f"{param} is a JSON {kind_of(content)}: expected a string or an array of parts")
    if not content:
        raise _wrong(param, f"{param} is empty: expected at least one part")
    for index, part in enumerate(content):
        yield _read_part(part, f"{param}[{index}]", is_user)


def _read_part(part: Any, param: str, is_user: bool) -> Item:
    if not isinstance(part, dict):
        raise _wrong(param, f"{param} is a JSON {kind_of(part)}: expected an object with type")
    kind = part.get("type")
    if kind == "text":
        text = part.get("text")
        if not isinstance(text, str):
            raise _wrong(f"{param}.text", f"{param}.text is a JSON {kind_of(text)}: expected a string")
        return _checked(text, f"{param}.text")
    if kind != "image_url":
        raise _wrong(f"{param}.type", f"{param}.type is {shown(kind)}: expected text or image_url")
    if not is_user:
        raise _wrong(param, f"{param} is an image: only messages of the user have images")
    return _read_image(part.get("image_url"), f"{param}.image_url")


def _read_image(value: Any, param: str) -> ImageSource:
    value = {"url": value} if isinstance(value, str) else value
    if not isinstance(value, dict) or not isinstance(value.get("url"), str):
        raise _wrong(param, f"{param} has no url: expected an object with a url, a string")
    detail = value.get("detail") or "auto"
    if detail not in DETAILS:
        raise _wrong(f"{param}.detail", f"{param}.detail is {shown(detail)}: expected auto, low or high")
    return ImageSource(value["url"].strip(), f"{param}.url", detail == "low")


def _joined(items: Iterable[Item]) -> tuple[str, ...]:
    """Return the texts around the images of a message."""
    pieces: list[list[str]] = [[]]
    previous: Item | None = None
    for item in items:
        if item == "":
            continue
        has_break = (isinstance(previous, str) and previous.endswith("\n")) or (
            isinstance(item, str) and item.startswith("\n")
        )
        if previous is not None and not has_break:
            pieces[-1].append("\n")
        if isinstance(item, str):
            pieces[-1].append(item)
        else:
            pieces.append([])
        previous = item
    return tuple("".join(piece) for piece in pieces)


def _checked(text: str, param: str) -> str:
    """Return a text of characters only. Raises ApiError for half of a surrogate pair, which JSON can contain."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _wrong(
            param, f"{param} has half of a surrogate pair at character {error.start}, which is not a character"
        ) from None
    return text


def _wrong(param: str, message: str, code: str = "invalid_value") -> ApiError:
    return ApiError(400, message, param=param, code=code)
