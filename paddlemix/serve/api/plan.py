"""What a request asks for, checked and ready to run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..protocol import ImageInput, Job
from .chat_shape import ChatShape
from .completion_shape import CompletionShape


@dataclass(frozen=True)
class Plan:
    """The jobs of a request, which are taken out when they run, and the shape of their answers.

    session: equal for requests that begin alike.
    ignored: names of fields that have no effect.
    """

    model: str
    jobs: list[Job]
    session: str
    shape: ChatShape | CompletionShape
    is_stream: bool = False
    num_each: int = 1  # answers to each job
    ignored: Sequence[str] = field(default=())


def session_of(model: str, texts: Sequence[Any], images: Sequence[ImageInput] = ()) -> str:
    """Return a name for what the beginning of a request is made of."""
    digest = hashlib.sha256(repr((model, texts)).encode("utf-8", "surrogatepass"))
    for image in images:
        digest.update(hashlib.sha256(image.data).digest())
    return digest.hexdigest()
