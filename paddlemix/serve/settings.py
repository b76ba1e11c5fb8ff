"""The settings of a server: of its model, of its limits, and of its web side."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..constants import BUNDLED_MODEL


@dataclass(frozen=True)
class ModelOptions:
    """How a process loads the model and answers. Fields without a comment are options of `paddlemix chat`.

    max_running: sequences at a time. max_model_len: tokens of a prompt and its answer, None for the model's context.
    cache_bytes: of keys and values of running sequences, None for the engine's own number of places; the prefix store
    and the image features may take as much again in all. worker, num_workers: this process among those of the machine,
    for its card and its threads. num_cards: that share the model of a process.
    """

    model_path: Path
    model_base: str | None = None
    device: str | None = None
    dtype: str | None = None
    conv_mode: str | None = None
    quantization: str | None = None  # of ops.quantize.choose_kind
    max_running: int = 16
    max_model_len: int | None = None
    cache_bytes: int | None = None
    max_image_pixels: int = 64_000_000
    worker: int = 0
    num_workers: int = 1
    num_cards: int = 1


@dataclass(frozen=True)
class Limits:
    """What a request may ask for. Everything above is answered with an error that names the limit."""

    max_queue: int = 64  # answers that wait, beside those that run
    max_images: int = 8
    max_body_bytes: int = 64_000_000
    max_image_pixels: int = 64_000_000
    max_stops: int = 16
    max_stop_length: int = 256  # characters
    max_answers: int = 16  # n
    max_logprobs: int = 20
    max_schema_length: int = 64 << 10  # characters
    body_seconds: float = 60.0  # to send the body
    request_seconds: float = 600.0  # from arrival to the last token
    stop_seconds: float = 30.0  # for running answers after SIGTERM


@dataclass(frozen=True)
class ServeSettings:
    """A server. names: under which the model is served, the first is told. image_hosts: from which images are fetched.

    api_keys: any of them opens /v1; none for a server without keys. origins: of web pages of other servers that may use
    this one ("https://chat.example.com", "*" for all), see `origins`.
    """

    model: ModelOptions
    names: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    image_hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    num_workers: int = 1
    is_logging_requests: bool = False  # with prompts and answers
    metrics_prefix: str = "paddlemix"


def default_name(model_path: str) -> str:
    """Return the name of a model that its owner has not named: the last part of its path, or of its name on a hub."""
    path = Path(model_path).resolve()
    return "tiny" if path == Path(BUNDLED_MODEL).resolve() else path.name
