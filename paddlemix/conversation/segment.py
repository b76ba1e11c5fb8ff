"""The piece between rendering and tokenizing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Segment:
    """A stretch of a rendered conversation.

    kind "text": plain text, in which nothing is special, not even `</s>`.
    kind "special": exactly one special token of the tokenizer, by its text.
    kind "image": one picture (text is empty); tokenizing repeats the placeholder for it.
    """

    text: str
    is_trained: bool
    kind: Literal["text", "special", "image"] = "text"
