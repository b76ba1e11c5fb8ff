"""Messages and conversations: roles, texts and the places of images. Independent of templates and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..constants import IMAGE_MARK

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One message.

    text: a string in which `<image>` marks an image, or a tuple of strings with an image between each two of them. The
    tuple is for typed text, in which `<image>` is just seven characters. is_trained: whether an answer is trained;
    other roles never are.
    """

    role: str
    text: str | tuple[str, ...]
    is_trained: bool = True

    def __post_init__(self):
        if self.role not in ROLES:
            raise ValueError(f"unknown role {self.role!r}: expected one of {', '.join(ROLES)}")
        if isinstance(self.text, list):
            object.__setattr__(self, "text", tuple(self.text))

    @classmethod
    def typed(cls, text: str, num_images: int = 0) -> Message:
        """Return a user message of typed text with images before it, each on its own line."""
        return cls("user", ("",) + ("\n",) * (num_images - 1) + ("\n" + text,) if num_images else (text,))

    @property
    def pieces(self) -> tuple[str, ...]:
        """The texts before, between and after the images: always one more than images."""
        return tuple(self.text.split(IMAGE_MARK)) if isinstance(self.text, str) else self.text

    @property
    def num_images(self) -> int:
        return len(self.pieces) - 1


@dataclass(frozen=True)
class Conversation:
    """Messages, and their images (path, URL, data URI, bytes or PIL image) in the order of the marks."""

    messages: Sequence[Message]
    images: Sequence[Any] = ()

    def __post_init__(self):
        object.__setattr__(self, "messages", tuple(self.messages))
        object.__setattr__(self, "images", tuple(self.images))

    @property
    def num_marks(self) -> int:
        return sum(message.num_images for message in self.messages)


def check_unicode(text: str, owner: str = "the text") -> None:
    """Raise ValueError for half of a surrogate pair, which JSON can contain and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{owner}: {text[error.start]!r} at character {error.start} is half of a surrogate pair, not a "
            "character: write the text again from its source"
        ) from None
