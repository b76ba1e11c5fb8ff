"""Processes with the model on this machine: gives each job to one of them and passes its events on."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from dataclasses import replace

from ..errors import LOADING_SECONDS, ApiError, stopping, unavailable
from ..protocol import Job, JobEvent, ModelInfo, Status
from ..settings import Limits, ModelOptions
from .dispatch import Dispatch
from .free_memory import MemoryGauge
from .keeper import Keeper, Patience
from .messages import Start
from .open_job import OpenJob

HOST = "paddlemix.serve.model.host:EngineHost"
MIN_FREE_BYTES = 256 << 20
FAREWELL_SECONDS = 1.0  # to tell clients that their requests are cancelled
CHECK_SECONDS = 1.0  # between looks whether workers hang


class Pool:
    """A `protocol.Backend` of num_workers processes. It lives in one event loop.

    host: the class that has the model in a worker, see `worker`. min_free_bytes: with less free memory than this on the
    machine, or below its container's limit, new jobs are refused.
    """

    info: ModelInfo

    def __init__(
        self,
        options: ModelOptions,
        limits: Limits,
        num_workers: int = 1,
        *,
        host: str = HOST,
        patience: Patience | None = None,
        min_free_bytes: int = MIN_FREE_BYTES,
    ):
        self.patience = patience or Patience()
        self.min_free_bytes = min_free_bytes
        workers = [replace(options, worker=number, num_workers=num_workers) for number in range(num_workers)]
        self._starts = [Start(host, worker, self.patience.beat) for worker in workers]
        self._dispatch = Dispatch(options.max_running, limits.max_queue)
        self._memory = MemoryGauge()
        self._keepers: list[Keeper] = []
        self._tasks: list[asyncio.Task] = []
        self._open: set[OpenJob] = set()
        self._all_taken = asyncio.Event()
        self._is_stopping = False

    async def start(self) -> None:
        """Load the model in all workers. Raises ValueError or OSError for what a user can cause, as a wrong path."""
        self._keepers = [Keeper(start, self.patience, self._take_report) for start in self._starts]
        self._tasks = [asyncio.create_task(keeper.run()) for keeper in self._keepers]
        try:
            infos = await asyncio.gather(*(keeper.loaded for keeper in self._keepers))
        except BaseException:
            await self.stop(0)
            raise
        self.info = infos[0]
        self._tasks.append(asyncio.create_task(self._watch()))

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new jobs, let the open ones finish for so long, cancel the rest, and end the workers."""
        self._is_stopping = True
        if not await self._wait_for_readers(grace_seconds):
            for open_job in list(self._open):
                open_job.fail(503, "stopping", "the server stops: send the request again later")
            await self._wait_for_readers(FAREWELL_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def answer(self, job: Job, session: str) -> AsyncIterator[JobEvent]:
        """Yield the events of a job. Closing the iterator cancels it. Raises ApiError, see `protocol.Backend`."""
        self._check_open()
        open_job = OpenJob(job, session, time.monotonic())
        if job.seconds is not None:
            open_job.timer = asyncio.get_running_loop().call_later(job.seconds, self._miss_limit, open_job)
        del job  # its images are freed when a worker has them
        self._open.add(open_job)
        self._dispatch.queue.append(open_job)
        try:
            self._hand_out()
            while (event := await open_job.next()) is not None:
                yield event
        finally:
            self._forget(open_job)

    async def status(self) -> Status:
        """Return how the pool is, by what each worker has said last."""
        ready = self._ready
        return Status(
            is_ready=bool(ready) and not self._is_stopping,
            is_stopping=self._is_stopping,
            num_workers=len(self._starts),
            num_restarts=sum(keeper.num_restarts for keeper in self._keepers),
            workers=tuple(keeper.stats for keeper in ready),
            num_queued=len(self._dispatch.queue),
        )

    @property
    def _ready(self) -> list[Keeper]:
        return [keeper for keeper in self._keepers if keeper.is_ready]

    def _check_open(self) -> None:
        """Raise ApiError if no job is accepted now."""
        if self._is_stopping:
            raise stopping()
        ready = self._ready
        if not ready and not (self._keepers and all(keeper.loaded.done() for keeper in self._keepers)):
            raise unavailable("loading", "the model is being loaded", LOADING_SECONDS)
        if not ready:
            seconds = min(keeper.restart_at for keeper in self._keepers) - time.monotonic()
            text = (
                "no process with the model is running: it ended and is started again; the server's log has the reason"
            )
            raise unavailable("no_worker", text, max(math.ceil(seconds), 0) + LOADING_SECONDS)
        self._dispatch.check_room(ready)
        free = self._memory.free()
        if free is not None and free < self.min_free_bytes:
            text = (
                f"the server's machine is short of memory: {free >> 20} MB are free, and {self.min_free_bytes >> 20} MB"
            )
            seconds = self._dispatch.retry_seconds(max(len(self._open), 1), len(ready))
            raise ApiError(429, f"{text} stay free", code="memory", headers={"Retry-After": str(seconds)})

    def _hand_out(self) -> None:
        while (choice := self._dispatch.next(self._ready)) is not None:
            open_job, keeper = choice
            keeper.submit(open_job)

    def _take_report(self, ended: OpenJob | None) -> None:
        if ended is not None and not ended.is_failed:
            self._dispatch.note_seconds(time.monotonic() - ended.started)
        self._hand_out()

    def _miss_limit(self, open_job: OpenJob) -> None:
        """End a job at its time limit. A worker that has it should do so itself, so it gets a little longer."""
        keeper = self._keeper_of(open_job)
        loop = asyncio.get_running_loop()
        if keeper is not None and time.monotonic() < open_job.arrived + open_job.job.seconds + self.patience.late:
            open_job.timer = loop.call_later(self.patience.late, self._miss_limit, open_job)
            return
        open_job.fail_late()
        if keeper is not None:
            keeper.note_timeout()
            keeper.cancel(open_job)
        self._hand_out()

    def _forget(self, open_job: OpenJob) -> None:
        """Cancel what is left of a job whose reader has gone or has all of it."""
        if open_job.timer is not None:
            open_job.timer.cancel()
        keeper = self._keeper_of(open_job)
        if keeper is not None:
            keeper.cancel(open_job)
        elif open_job in self._dispatch.queue:
            self._dispatch.queue.remove(open_job)
        self._open.discard(open_job)
        if not self._open:
            self._all_taken.set()
        self._hand_out()

    def _keeper_of(self, open_job: OpenJob) -> Keeper | None:
        return next((one for one in self._keepers if one.jobs.get(open_job.job.id) is open_job), None)

    async def _wait_for_readers(self, seconds: float) -> bool:
        """Wait until all jobs have ended and their readers have all events; return whether it came to that in time."""
        self._all_taken.clear()
        if self._open and seconds > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._all_taken.wait(), seconds)
        return not self._open

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(CHECK_SECONDS, self.patience.silence / 4, self.patience.stuck / 4))
            for keeper in self._keepers:
                keeper.check()
