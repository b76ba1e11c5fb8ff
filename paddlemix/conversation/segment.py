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
    is_held_back: of an answer that is not trained. Its text is not joined with the untrained text around it, so that
    its token ids are those of a trained answer.
    """

    text: str
    is_trained: bool
    kind: Literal["text", "special", "image"] = "text"
    is_held_back: bool = False
