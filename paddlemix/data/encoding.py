"""What makes samples of the rows of a run."""

from __future__ import annotations

from dataclasses import dataclass

from ..conversation.templates import ChatTemplate
from ..conversation.tokenizer import Tokenizer
from ..image.spec import ImageSpec


@dataclass(frozen=True)
class Encoding:
    """What encodes the rows of a run, for comparison with rows that were encoded before."""

    tokenizer: Tokenizer
    template: ChatTemplate
    spec: ImageSpec
    max_length: int
