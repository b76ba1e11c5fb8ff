"""What the web side of a server and the process with the model say to each other. Plain data that can be pickled.

A job goes in; its events come out in this order: one `Accepted`, then for each answer `Delta`s and one `Ended`. A
`Failed` may come at any place and is the last event of its job.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from ..conversation.messages import Message
from ..generate.sampling import SamplingParams
from ..image.spec import ImageSpec


@dataclass(frozen=True)
class ImageInput:
    """An image as it was sent: the bytes of its file. is_low_detail: encode one tile only, whatever the model does."""

    data: bytes
    is_low_detail: bool = False


@dataclass(frozen=True)
class Job:
    """A request for answers.

    Either messages (system first if any, then user and assistant in turn; the texts of users are tuples with an image
    between each two) with their images in order; or prompt, a raw text or token ids, which is continued as it is.
    is_continued: the last message is the beginning of the answer. num_answers: sampled with the seeds seed, seed + 1,
    and so on. sampling.max_new_tokens may be larger than what fits into the context. seconds: the time limit, from when
    the job reaches the process with the model to its last token; None for none.
    """

    id: str
    sampling: SamplingParams
    messages: tuple[Message, ...] = ()
    images: tuple[ImageInput, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    is_continued: bool = False
    num_answers: int = 1
    seconds: float | None = None


@dataclass(frozen=True)
class ImageCount:
    """What an image became. size: (width, height) px as sent, upright. is_known: its features were in the cache."""

    size: tuple[int, int]
    num_tiles: int
    num_tokens: int
    is_known: bool


@dataclass(frozen=True)
class Accepted:
    """The prompt is encoded and waits for its turn. num_prompt_tokens counts the places of images."""

    job_id: str
    num_prompt_tokens: int
    images: tuple[ImageCount, ...] = ()
    prompt_text: str = ""  # of a raw prompt, to echo it


@dataclass(frozen=True)
class TokenLogprob:
    """A token of an answer with the natural logarithm of its probability, and the likeliest ones in its place.

    Probabilities are those of the model, before temperature, penalties and limits. text: as it is decoded alone.
    """

    token_id: int
    text: str
    text_bytes: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Delta:
    """New text of an answer, whole characters only, and the tokens that were generated since the last one.

    The text may be empty: a token that completes no character, or text that is held back as the possible beginning of a
    stop string. logprobs: of these tokens, if the job asks for them.
    """

    job_id: str
    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Ended:
    """An answer is complete.

    finish_reason: "stop" or "length" (the limit or the end of the context). stop_reason: the stop string or token id of
    the request that ended it, None for the model's own end. num_cached_tokens: places of the prompt that were known and
    not computed. Seconds: queue, from the job's arrival to its first computation; prefill, from there to the first
    token; decode, from there to the last.
    """

    job_id: str
    index: int
    finish_reason: str
    num_tokens: int
    num_cached_tokens: int = 0
    stop_reason: str | int | None = None
    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0


@dataclass(frozen=True)
class Failed:
    """A job that has no (more) answers. The fields are those of `errors.ApiError`."""

    job_id: str
    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None


JobEvent = Accepted | Delta | Ended | Failed


@dataclass(frozen=True)
class ModelInfo:
    """What a server tells about its model. max_model_len: tokens of prompt and answer together.

    max_places: that the cache holds for all running sequences together.
    """

    name: str
    template: str
    image: ImageSpec
    max_model_len: int
    max_places: int
    num_vocabulary: int
    device: str
    dtype: str
    is_structured_output_known: bool = False  # whether llguidance is installed


@dataclass(frozen=True)
class EngineStats:
    """Counters since the start, and gauges of now, of one process with a model. Bytes and seconds are plain units."""

    num_running: int = 0
    num_waiting: int = 0  # in the engine or before it: images that are decoded
    num_preemptions: int = 0
    cache_usage: float = 0.0  # places that running sequences use of those that the cache may hold, 0 to 1
    prefix_queries: int = 0  # places of prompts
    prefix_hits: int = 0  # of these, places that were known
    image_queries: int = 0
    image_hits: int = 0  # images whose features were known
    images_encoded: int = 0
    image_encode_seconds: float = 0.0
    memory_bytes: int = 0  # resident memory of the process


@dataclass(frozen=True)
class Status:
    """How a server is. workers: stats of each process that is ready. num_restarts: processes that were replaced.

    num_queued: jobs that no process has yet.
    """

    is_ready: bool
    is_stopping: bool = False
    num_workers: int = 1
    num_restarts: int = 0
    workers: tuple[EngineStats, ...] = field(default=())
    num_queued: int = 0

    @property
    def num_running(self) -> int:
        return sum(worker.num_running for worker in self.workers)

    @property
    def num_waiting(self) -> int:
        return self.num_queued + sum(worker.num_waiting for worker in self.workers)


class Backend(Protocol):
    """Where jobs are answered: processes of this machine (`pool.Pool`), or replicas of a cluster (`ray_app`)."""

    info: ModelInfo  # known when the backend has started

    async def start(self) -> None:
        """Load the model. Raises ValueError or OSError for what a user can cause, as a wrong path."""

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new jobs, let those that run finish for so long, cancel the rest, and free the model."""

    def answer(self, job: Job, session: str) -> AsyncIterator[JobEvent]:
        """Yield the events of a job. Closing the iterator cancels it.

        session: equal for jobs that begin alike, which go to the same process if it is not busier than others. Raises
        ApiError: 429 if the queue is full, 503 while the model is loaded or the server stops.
        """

    async def status(self) -> Status:
        """Return how the backend is; at once, without waiting for a busy process."""
