"""A `Backend` without a model: it answers by a script, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

from paddlemix.image.spec import ANYRES_GRIDS, ImageSpec
from paddlemix.serve.errors import ApiError
from paddlemix.serve.protocol import (
    Accepted,
    Delta,
    Ended,
    EngineStats,
    Failed,
    ImageCount,
    Job,
    JobEvent,
    ModelInfo,
    Status,
    TokenLogprob,
)

INFO = ModelInfo(
    name="tiny",
    template="v1",
    image=ImageSpec(mode="anyres", grids=ANYRES_GRIDS, merge="spatial_unpad"),
    max_model_len=2048,
    max_places=8192,
    num_vocabulary=1000,
    device="cpu",
    dtype="float32",
    is_structured_output_known=True,
)


class FakeBackend:
    """Answers each job with `text_of(job)`, some characters at a time.

    script: events in place of the usual ones. seconds: before each piece. start_error, answer_error: raised by start
    and by answer. jobs, sessions: what was asked; cancelled: ids of jobs whose iterator was closed early.
    """

    def __init__(
        self,
        *,
        info: ModelInfo = INFO,
        script: Sequence[JobEvent] | None = None,
        seconds: float = 0.0,
        start_seconds: float = 0.0,
        start_error: Exception | None = None,
        answer_error: Exception | None = None,
    ):
        self.info, self.script, self.seconds = info, script, seconds
        self.start_seconds, self.start_error, self.answer_error = start_seconds, start_error, answer_error
        self.jobs: list[Job] = []
        self.sessions: list[str] = []
        self.cancelled: list[str] = []
        self.num_running = 0
        self.is_ready = self.is_stopping = False
        self.has_cancelled = threading.Event()

    async def start(self) -> None:
        await asyncio.sleep(self.start_seconds)
        if self.start_error:
            raise self.start_error
        self.is_ready = True

    async def stop(self, grace_seconds: float) -> None:
        self.is_ready, self.is_stopping = False, True
        deadline = asyncio.get_running_loop().time() + grace_seconds
        while self.num_running and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)

    async def status(self) -> Status:
        stats = EngineStats(num_running=self.num_running)
        return Status(self.is_ready, self.is_stopping, workers=(stats,))

    async def answer(self, job: Job, session: str) -> AsyncIterator[JobEvent]:
        if self.answer_error:
            raise self.answer_error
        if self.is_stopping:
            raise ApiError(503, "the server stops", code="stopping")
        self.jobs.append(job)
        self.sessions.append(session)
        self.num_running += 1
        is_complete = False
        try:
            for event in self.script if self.script is not None else events_of(job):
                if isinstance(event, Delta) and self.seconds:
                    await asyncio.sleep(self.seconds)
                yield event
            is_complete = True
        finally:
            self.num_running -= 1
            if not is_complete:
                self.cancelled.append(job.id)
                self.has_cancelled.set()


def text_of(job: Job) -> str:
    """Return the fake answer to a job: what it asks, so that a test sees what arrived."""
    if job.prompt is not None:
        return f" ({job.prompt})" if isinstance(job.prompt, str) else f" {len(job.prompt)} ids"
    last = job.messages[-1].pieces
    return f"heard {'[image]'.join(last)!r} and {len(job.images)} images \u4f60\u597d"


def events_of(job: Job) -> list[JobEvent]:
    """Return the events of a job: two characters and one token a time."""
    images = tuple(ImageCount((8, 8), 1, 576, is_known=False) for _ in job.images)
    prompt_text = job.prompt if isinstance(job.prompt, str) else "ids:" if job.prompt else ""
    events: list[JobEvent] = [Accepted(job.id, 10 + 576 * len(images), images, prompt_text)]
    text = text_of(job)
    if job.messages and job.messages[-1].pieces[-1].endswith("fail"):
        return [Failed(job.id, 400, "this prompt has 9999 tokens", code="context_length_exceeded")]
    pieces = [text[start : start + 2] for start in range(0, len(text), 2)][: job.sampling.max_new_tokens]
    for index in range(job.num_answers):
        for number, piece in enumerate(pieces):
            logprobs = () if job.sampling.num_logprobs is None else (logprob_of(piece, job.sampling.num_logprobs),)
            events.append(Delta(job.id, index, piece, (number,), logprobs))
        reason = "length" if len(pieces) == job.sampling.max_new_tokens else "stop"
        events.append(Ended(job.id, index, reason, len(pieces), num_cached_tokens=4 + index))
    return events


def logprob_of(piece: str, num_top: int) -> TokenLogprob:
    """Return a token with its alternatives; the last one is impossible."""
    top = [TokenLogprob(index, f"t{index}", b"t", -1.0 - index) for index in range(num_top)]
    if top:
        top[-1] = TokenLogprob(99, "never", b"never", float("-inf"))
    return TokenLogprob(1, piece, piece.encode(), -0.5, tuple(top))
