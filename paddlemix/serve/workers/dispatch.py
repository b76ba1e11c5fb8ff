"""Which worker answers a job, how many jobs may wait, and when a client should try again. Knows no processes."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Protocol

from ..errors import queue_full
from .open_job import OpenJob

MAX_SESSIONS = 10_000  # whose worker is remembered
MAX_RETRY_SECONDS = 60
FIRST_GUESS = 5.0  # seconds of a job, before any has ended
SHARE_OF_LAST = 0.1  # in the mean time of jobs


class Desk(Protocol):
    """A worker as dispatch sees it. jobs: that it has, in the order in which they came."""

    number: int
    jobs: dict[str, OpenJob]


class Dispatch:
    """The queue of jobs that no worker has yet.

    Workers get a few jobs more than they run at a time, so that they prepare images while others are computed. The rest
    waits here: it goes to whichever worker is free first, and outlives a worker that dies.
    """

    def __init__(self, max_running: int, max_queue: int):
        self.max_running, self.max_queue = max_running, max_queue
        self.max_ahead = max(max_running // 4, 2)  # jobs that a worker prepares
        self.max_extra = max(max_running // 4, 2)  # how much busier the worker of a session may be
        self.queue: deque[OpenJob] = deque()
        self.mean_seconds = FIRST_GUESS
        self._sessions: OrderedDict[str, int] = OrderedDict()  # -> number of the worker that had it last
        self._num_taken = 0
        self._last_turns: dict[int, int] = {}  # number of a worker -> which job it got last

    def check_room(self, desks: list[Desk]) -> None:
        """Raise ApiError 429 if a job would have to wait and too many answers wait already.

        Answers and not jobs, because a few jobs of many answers would keep everyone waiting as long as a full queue.
        """
        if not self.queue and any(load(desk) < self.max_running for desk in desks):
            return
        num_waiting = sum(open_job.job.num_answers for open_job in self.queue)
        num_waiting += sum(max(load(desk) - self.max_running, 0) for desk in desks)
        if num_waiting < self.max_queue:
            return
        raise queue_full(num_waiting, self.max_queue, self.retry_seconds(num_waiting, len(desks)))

    def retry_seconds(self, num_waiting: int, num_desks: int) -> int:
        """Return in how many seconds those that wait now will have started."""
        seconds = self.mean_seconds * num_waiting / max(num_desks * self.max_running, 1)
        return min(max(math.ceil(seconds), 1), MAX_RETRY_SECONDS)

    def next(self, desks: Iterable[Desk]) -> tuple[OpenJob, Desk] | None:
        """Take the first job from the queue if a worker has room for it, and choose the worker."""
        free = [desk for desk in desks if load(desk) < self.max_running + self.max_ahead]
        if not self.queue or not free:
            return None
        open_job = self.queue.popleft()
        desk = self._choose(open_job.session, free)
        self._num_taken += 1
        self._last_turns[desk.number] = self._num_taken
        self._sessions[open_job.session] = desk.number
        self._sessions.move_to_end(open_job.session)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return open_job, desk

    def note_seconds(self, seconds: float) -> None:
        """Count a job that has ended into the mean time."""
        self.mean_seconds += SHARE_OF_LAST * (seconds - self.mean_seconds)

    def _choose(self, session: str, free: list[Desk]) -> Desk:
        # Among equals the one whose turn was longest ago, so that the sessions of a quiet server spread, too.
        least = min(free, key=lambda desk: (load(desk), self._last_turns.get(desk.number, 0)))
        last = self._sessions.get(session)
        usual = next((desk for desk in free if desk.number == last), None)
        return usual if usual is not None and load(usual) <= load(least) + self.max_extra else least


def load(desk: Desk) -> int:
    """Return how many answers a worker owes."""
    return sum(open_job.job.num_answers for open_job in desk.jobs.values())
