"""The web side of a Ray cluster: jobs go to a replica, and their events come back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

from ..errors import queue_full, stopping
from ..protocol import Failed, Job, JobEvent, ModelInfo, Status
from ..settings import Limits

RETRY_SECONDS = 5  # that a client is asked to wait
MAX_SESSIONS = 10_000  # whose replica is remembered
STATUS_SECONDS = 2.0  # to wait for the board


class RayBackend:
    """Replicas of a cluster. models, board: handles of the deployments of `ModelReplica` and `StatusBoard`."""

    info: ModelInfo

    def __init__(self, models: Any, board: Any, limits: Limits, max_running: int):
        self._models = models
        self._board = board
        self._max_queue = limits.max_queue
        self._max_running = max_running
        self._homes: dict[str, str] = {}  # sessions -> names of replicas, the oldest first
        self._is_stopping = False
        self._num_open = 0  # answers
        self._last = Status(is_ready=False)

    async def start(self) -> None:
        """Wait for the first replica that has loaded the model."""
        self.info = await self._models.info.remote()

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new jobs and wait for those that run. The replicas belong to Ray, which stops them."""
        self._is_stopping = True
        loop = asyncio.get_running_loop()
        end = loop.time() + grace_seconds
        while self._num_open and loop.time() < end:
            await asyncio.sleep(0.05)

    async def answer(self, job: Job, session: str) -> AsyncIterator[JobEvent]:
        """Yield the events of a job; see `Backend.answer`."""
        if self._is_stopping:
            raise stopping()
        # Not left to Ray, which counts requests as waiting while it looks for a replica, idle ones included.
        if self._num_waiting(self._last) >= self._max_queue:
            num_waiting = self._num_waiting(await self.status())
            if num_waiting >= self._max_queue:
                raise queue_full(num_waiting, self._max_queue, RETRY_SECONDS)
        home = self._homes.get(session)
        routing = {"multiplexed_model_id": home} if home else {}
        response = self._models.options(stream=True, **routing).answer.remote(job)
        self._num_open += job.num_answers
        try:
            async for event in self._events(job, session, response):
                yield event
        finally:
            self._num_open -= job.num_answers

    async def _events(self, job: Job, session: str, response: Any) -> AsyncIterator[JobEvent]:
        from ray.exceptions import RayActorError, RayError

        is_complete = False
        try:
            async for name, events in response:
                self._remember(session, name)
                for event in events:
                    yield event
            is_complete = True
        except RayActorError:
            is_complete = True
            text = "the process that computed this answer ended: send the request again"
            yield Failed(job.id, 500, text, type="server_error", code="worker_died")
        except RayError as error:
            is_complete = True
            print(f"job {job.id}: {error}", file=sys.stderr, flush=True)
            yield Failed(job.id, 500, "the server could not compute this answer", type="server_error")
        finally:
            if not is_complete:  # the client has gone
                response.cancel()

    def _remember(self, session: str, name: str) -> None:
        """Note which replica has the beginning of a session's prompts in its prefix store."""
        if session and self._homes.get(session) != name:
            self._homes[session] = name
            while len(self._homes) > MAX_SESSIONS:
                del self._homes[next(iter(self._homes))]

    def _num_waiting(self, status: Status) -> int:
        """Return how many answers wait. Below 0: so many more could run."""
        return self._num_open - max(status.num_workers, 1) * self._max_running

    async def status(self) -> Status:
        """Return the state of the replicas: the last known one if the board does not answer at once."""
        from ray.exceptions import RayError

        try:
            found = await asyncio.wait_for(_awaited(self._board.status.remote()), STATUS_SECONDS)
        except (asyncio.TimeoutError, RayError):
            return self._last
        self._last = Status(
            is_ready=found.is_ready and not self._is_stopping,
            is_stopping=self._is_stopping,
            num_workers=found.num_workers,
            num_restarts=found.num_restarts,
            workers=found.workers,
        )
        return self._last


async def _awaited(response: Any) -> Any:
    return await response
