"""What is said, by whom, and where the pictures stand. Knows no template and no token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..constants import IMAGE_MARK

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One turn.

    `text` is a string in which `<image>` marks a picture, or a tuple of strings with one picture between each two of
    them. The tuple is for text that somebody typed: there `<image>` is just seven characters. is_trained: of an
    answer, whether training learns it; other roles are never learnt.
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
        """Make a user turn from typed text, with its pictures before the text, each on a line of its own."""
        return cls("user", ("",) + ("\n",) * (num_images - 1) + ("\n" + text,) if num_images else (text,))

    @property
    def pieces(self) -> tuple[str, ...]:
        """Text before, between and after the pictures: always one piece more than pictures."""
        return tuple(self.text.split(IMAGE_MARK)) if isinstance(self.text, str) else self.text

    @property
    def num_images(self) -> int:
        return len(self.pieces) - 1


@dataclass(frozen=True)
class Conversation:
    """Messages and their images (path, URL, data URI, bytes or PIL image) in the order of the marks."""

    messages: Sequence[Message]
    images: Sequence[Any] = ()

    def __post_init__(self):
        object.__setattr__(self, "messages", tuple(self.messages))
        object.__setattr__(self, "images", tuple(self.images))

    @property
    def num_marks(self) -> int:
        return sum(message.num_images for message in self.messages)
