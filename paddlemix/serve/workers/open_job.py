"""A job whose answers are not complete or not taken yet, on the web side."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace

from ..protocol import Delta, Ended, Failed, Job, JobEvent

MAX_SEPARATE = 32  # events that wait for their reader before deltas are joined
MAX_LOGPROBS = 50_000  # probabilities that wait, about 15 MB


class OpenJob:
    """A job and the events that its reader has not taken.

    A client may read slowly or not at all. What waits then is joined to one delta for each answer, which is as large as
    the answer is; only probabilities would need much memory, so that too many of them end the job. Not thread-safe.
    """

    def __init__(self, job: Job, session: str, arrived: float):
        self.job, self.session, self.arrived = job, session, arrived
        self.started: float | None = None  # when a worker got it
        self.is_done = False  # no event will come
        self.is_failed = False  # its last event is an error
        self.is_overflowing = False  # ended since its reader was too slow
        self.timer: asyncio.TimerHandle | None = None  # of its time limit
        self._events: deque[JobEvent] = deque()
        self._last: dict[int, int] = {}  # answer -> number of its last delta that waits
        self._num_taken = 0
        self._num_open = job.num_answers
        self._num_logprobs = 0
        self._news = asyncio.Event()

    def put(self, event: JobEvent) -> None:
        """Add an event; what comes after the last one is ignored."""
        if self.is_done:
            return
        if isinstance(event, Failed) and event.code == "timeout":
            event = replace(event, message=self._late)  # the worker knows only what was left of the time
        if isinstance(event, Delta):
            self._put_delta(event)
        else:
            self._events.append(event)
        if isinstance(event, Ended):
            self._num_open -= 1
            self._last.pop(event.index, None)
        self.is_failed = self.is_failed or isinstance(event, Failed)
        self.is_done = self.is_failed or self._num_open == 0
        self._news.set()

    def fail(self, status: int, code: str, message: str) -> None:
        """End the job with an error that is the server's, not the client's."""
        self.put(Failed(self.job.id, status, message, "timeout_error" if status == 504 else "server_error", code=code))

    def fail_late(self) -> None:
        """End the job since its time is over."""
        self.fail(504, "timeout", self._late)

    @property
    def _late(self) -> str:
        return f"the answer was not complete after {self.job.seconds:g} seconds"

    async def next(self) -> JobEvent | None:
        """Wait for an event; None after the last one."""
        while not self._events:
            if self.is_done:
                return None
            self._news.clear()
            await self._news.wait()
        event = self._events.popleft()
        self._num_taken += 1
        if isinstance(event, Delta):
            self._num_logprobs -= _num_logprobs(event)
        return event

    def hand_over(self, now: float) -> Job:
        """Return the job as a worker gets it at this time; here it needs no messages and images any more."""
        self.started = now
        whole = self.job
        self.job = replace(whole, messages=(), images=(), prompt=None)
        return whole if whole.seconds is None else replace(whole, seconds=max(self.arrived + whole.seconds - now, 0.0))

    def _put_delta(self, delta: Delta) -> None:
        self._num_logprobs += _num_logprobs(delta)
        if self._num_logprobs > MAX_LOGPROBS:
            self.is_overflowing = True
            self._events.clear()
            self.fail(408, "slow_client", "the client reads its answer too slowly for the probabilities it asked for")
            return
        place = self._last.get(delta.index, -1) - self._num_taken
        if len(self._events) >= MAX_SEPARATE and place >= 0:
            waiting = self._events[place]
            self._events[place] = replace(
                waiting,
                text=waiting.text + delta.text,
                token_ids=waiting.token_ids + delta.token_ids,
                logprobs=waiting.logprobs + delta.logprobs,
            )
            return
        self._last[delta.index] = self._num_taken + len(self._events)
        self._events.append(delta)


def _num_logprobs(delta: Delta) -> int:
    return sum(1 + len(one.top) for one in delta.logprobs)
