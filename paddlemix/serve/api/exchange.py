"""One request for answers from its arrival to its last byte: what it holds, and what is told of it afterwards."""

from __future__ import annotations

import time

from fastapi import Request

from ...conversation.messages import Message
from ..errors import ApiError
from ..guards.body_limit import CLIENT_GONE, Body
from ..monitor.request_log import RequestRecord, prompt_text
from ..protocol import Delta, ImageCount, JobEvent
from ..serving import Serving
from .answers import Answer, Answers
from .plan import Plan


class Exchange:
    """A request. The first of its ends counts, later ones are without effect."""

    def __init__(self, serving: Serving, request: Request):
        self.serving = serving
        self.body = Body(serving.bodies)
        self.answers = Answers(0, 1)
        self._request = request
        self._started = time.monotonic()
        self._plan: Plan | None = None
        self._prompts: list[tuple[Message, ...] | str] = []  # for the log
        self._last: dict[int, float] = {}  # when the last piece of each answer came
        self._first_seconds: float | None = None
        self._is_open = True

    def begin(self, plan: Plan) -> None:
        """Note what the request asks for."""
        self._plan, self.answers = plan, Answers(len(plan.jobs), plan.num_each)
        if self.serving.log.is_with_texts:
            self._prompts = [job.messages or str(job.prompt) for job in plan.jobs]
        self.serving.metrics.request_started()

    def take(self, job: int, event: JobEvent) -> int | None:
        """Add an event to the answers; return the number of its answer, None if it is of no answer."""
        index = self.answers.take(job, event)
        if isinstance(event, Delta) and event.token_ids:
            now = time.monotonic()
            if self._first_seconds is None:
                self._first_seconds = now - self._started
            if index in self._last:
                self.serving.metrics.token_gap(now - self._last[index])
            self._last[index] = now
        return index

    def end(self, status: int, error: ApiError | None = None) -> None:
        """Note that the request is answered, and free what it held."""
        if not self._is_open:
            return
        self._is_open = False
        self._request.state.is_logged = True
        self.body.release()
        record = self._record(status, error)
        metrics, is_rejected = self.serving.metrics, error is not None and not self._last
        if is_rejected:
            metrics.rejected(error.code or error.type)
        if self._plan is not None:
            metrics.request_ended(record, is_rejected=is_rejected)
        self.serving.log.write(record)

    def end_gone(self) -> None:
        """Note that the client went away."""
        self.end(CLIENT_GONE)

    def end_stream(self, error: ApiError | None, is_gone: bool) -> None:
        """Note the end of a stream."""
        if is_gone:
            self.end_gone()
        else:
            self.end(200, error)

    def _record(self, status: int, error: ApiError | None) -> RequestRecord:
        answers, ended, request = self.answers, self.answers.ended, self._request
        images = _images_of(answers)
        return RequestRecord(
            id=request.state.request_id,
            path=request.url.path,
            model=self._plan.model if self._plan else "",
            client=request.client.host if request.client else "",
            status=status,
            error_code=error and (error.code or error.type),
            is_stream=bool(self._plan and self._plan.is_stream),
            finish_reasons=tuple(_reason(answer, status, error) for answer in answers.list),
            num_prompt_tokens=answers.num_prompt_tokens,
            num_cached_tokens=answers.num_cached_tokens,
            num_images=len(images),
            num_tiles=sum(image.num_tiles for image in images),
            num_image_tokens=sum(image.num_tokens for image in images),
            num_answer_tokens=tuple(answer.num_tokens for answer in answers.list),
            queue_seconds=max((one.queue_seconds for one in ended), default=None),
            prefill_seconds=max((one.prefill_seconds for one in ended), default=None),
            decode_seconds=max((one.decode_seconds for one in ended), default=None),
            first_token_seconds=self._first_seconds,
            total_seconds=time.monotonic() - self._started,
            prompt="\n".join(one if isinstance(one, str) else prompt_text(one, images) for one in self._prompts),
            answers=_texts_of(answers) if self.serving.log.is_with_texts else (),
        )


def _reason(answer: Answer, status: int, error: ApiError | None) -> str:
    if answer.ended is not None:
        return answer.ended.finish_reason
    return "abort" if error is None and status == CLIENT_GONE else "error"


def _texts_of(answers: Answers) -> tuple[str, ...]:
    """Return the texts of the answers that ended or have begun; a refused request has none."""
    return tuple(one.text for one in answers.list if one.ended is not None or one.pieces)


def _images_of(answers: Answers) -> list[ImageCount]:
    return [image for accepted in answers.accepted if accepted for image in accepted.images]
