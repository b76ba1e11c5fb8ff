"""A line in the log for each request: who asked for how much, how it ended and how long it took.

Prompts and answers are written only if the operator asks for it (`--log-requests`), keys never. At a terminal the line
is short, for people; what goes to a file, a pipe or the journal has all fields.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ...conversation.messages import Message
from ...terminal.sizes import plural
from ...terminal.visible import visible_line
from ..protocol import ImageCount

LOCAL = ("", "127.0.0.1", "::1")  # clients on this machine
MAX_TEXT = 20_000  # characters of a prompt or an answer in the log
_PLAIN = re.compile(r"[\w.:/@+,-]+")


@dataclass(frozen=True)
class RequestRecord:
    """A request that is over. Times are seconds, None for what it did not reach.

    status: of HTTP; in a stream, the one that it began with, so error_code tells whether it failed later. client:
    address of the other side. num_answer_tokens, finish_reasons: of each answer ("stop", "length"; "abort" if the
    client went away, "error" if it failed). num_cached_tokens: places of the prompt that were not computed.
    first_token_seconds: from the request's arrival to its first token. prompt, answers: for `--log-requests` only.
    """

    id: str
    path: str
    model: str = ""
    client: str = ""
    status: int = 200
    error_code: str | None = None
    is_stream: bool = False
    finish_reasons: tuple[str, ...] = ()
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_images: int = 0
    num_tiles: int = 0
    num_image_tokens: int = 0
    num_answer_tokens: tuple[int, ...] = ()
    queue_seconds: float | None = None
    prefill_seconds: float | None = None
    decode_seconds: float | None = None
    first_token_seconds: float | None = None
    total_seconds: float = 0.0
    prompt: str = field(default="", repr=False)
    answers: tuple[str, ...] = field(default=(), repr=False)


class RequestLog:
    """Writes the lines. is_with_texts: with prompts and answers. write: takes a line; to standard error by default."""

    def __init__(self, is_with_texts: bool = False, write: Callable[[str], None] | None = None):
        self.is_with_texts = is_with_texts
        self._write = write or _write_line
        self._is_short = write is None and not is_with_texts and sys.stderr.isatty()

    def write(self, record: RequestRecord) -> None:
        """Write the line of a request."""
        if self._is_short:
            self._write(visible_line(short_line(record)))
            return
        fields = [f"{name}={_shown(value)}" for name, value in _fields(record) if value not in ("", None)]
        if self.is_with_texts:
            fields += [f"{name}={_quoted(_cut(text))}" for name, text in _texts(record)]
        self._write(" ".join([time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "request", *fields]))


def short_line(record: RequestRecord) -> str:
    """Return the line of a request for a terminal: "10:20:30 200 /v1/completions 9+3 tokens, stop, 0.20 s"."""
    num_answer_tokens, client = sum(record.num_answer_tokens), record.client
    parts = [
        f"{record.num_prompt_tokens}+{num_answer_tokens} tokens" if record.num_prompt_tokens else "",
        plural(record.num_images, "image") if record.num_images else "",
        record.error_code or "/".join(dict.fromkeys(record.finish_reasons)),
        f"{record.total_seconds:.2f} s",
        "" if client in LOCAL else f"from {client}",
    ]
    return f"{time.strftime('%H:%M:%S')} {record.status} {record.path} {', '.join(filter(None, parts))}"


def prompt_text(messages: Sequence[Message], images: Sequence[ImageCount]) -> str:
    """Return the messages of a job as text for the log, an image as its size."""
    sizes = iter(images)
    return "\n".join(f"{message.role}: {''.join(_parts(message, sizes))}" for message in messages)


def _parts(message: Message, sizes: Iterator[ImageCount]) -> Iterator[str]:
    for position, text in enumerate(message.pieces):
        if position:
            size = next(sizes, None)
            yield "[image]" if size is None else f"[image {size.size[0]}x{size.size[1]}]"
        yield text


def _fields(record: RequestRecord) -> Iterator[tuple[str, object]]:
    yield "id", record.id
    yield "client", record.client
    yield "path", record.path
    yield "model", record.model
    yield "status", record.status
    yield "error", record.error_code
    yield "stream", "yes" if record.is_stream else "no"
    yield "finish", ",".join(record.finish_reasons)
    yield "prompt_tokens", record.num_prompt_tokens
    yield "cached_tokens", record.num_cached_tokens
    yield "images", record.num_images
    if record.num_images:
        yield "tiles", record.num_tiles
        yield "image_tokens", record.num_image_tokens
    yield "answer_tokens", ",".join(str(number) for number in record.num_answer_tokens)
    yield "queue_s", record.queue_seconds
    yield "prefill_s", record.prefill_seconds
    yield "decode_s", record.decode_seconds
    yield "first_token_s", record.first_token_seconds
    yield "total_s", record.total_seconds


def _texts(record: RequestRecord) -> Iterator[tuple[str, str]]:
    if record.prompt:  # which a request that was refused before it was read does not have
        yield "prompt", record.prompt
    for answer in record.answers:
        yield "answer", answer


def _shown(value: object) -> str:
    """Return a value as it stands in a line: plain, or in quotation marks if it could be mistaken for more than one."""
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if _PLAIN.fullmatch(text) else _quoted(text)


def _quoted(text: str) -> str:
    """Return a text as JSON writes it, with every character that a terminal would obey or hide escaped."""
    return visible_line(json.dumps(text, ensure_ascii=False))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... ({len(text)} characters)"


def _write_line(line: str) -> None:
    with contextlib.suppress(OSError):  # a closed terminal or a full disk is no reason to refuse answers
        print(line, file=sys.stderr, flush=True)
