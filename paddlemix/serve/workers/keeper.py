"""Keeps one worker of a pool alive: starts it, passes its events on, starts it again when it has died or hangs."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from ...terminal.log import notice
from ..protocol import Delta, Ended, EngineStats, Failed, JobEvent, ModelInfo
from .messages import Cancel, FromWorker, Heartbeat, NotReady, Ready, Start, Submit
from .open_job import OpenJob
from .worker_process import WorkerProcess, ending

NUM_MISSES = 2  # checks in a row: after a halt of this process the first one may come before what arrived meanwhile


@dataclass(frozen=True)
class Patience:
    """How many seconds a pool waits.

    beat: between heartbeats of a worker. silence: without one, until the worker is killed. stuck: without any progress
    since a job has run out of time, with other jobs open, until it is killed; a step of a large model may take minutes
    on a CPU. late: for a worker to end a job after its time limit, until the web side ends it. restart: before the
    first start after a death, doubled for each further one up to max_restart. stable: of a life, after which the deaths
    before are forgotten.
    """

    beat: float = 0.5
    silence: float = 120.0
    stuck: float = 600.0
    late: float = 10.0
    restart: float = 1.0
    max_restart: float = 60.0
    stable: float = 60.0


class Keeper:
    """A worker that is started again whenever it ends. report: called when it may have room for a job.

    loaded: the model's info as soon as the first start is complete, or its error. Not thread-safe.
    """

    def __init__(self, start: Start, patience: Patience, report: Callable[[OpenJob | None], None]):
        self.start, self.patience, self.report = start, patience, report
        self.number = start.options.worker
        self.jobs: dict[str, OpenJob] = {}
        self.loaded: asyncio.Future[ModelInfo] = asyncio.get_running_loop().create_future()
        self.is_ready = False
        self.stats = EngineStats()
        self.num_restarts = 0
        self.restart_at = 0.0  # when it is started again, of time.monotonic
        self._process: WorkerProcess | None = None
        self._refusal: NotReady | None = None
        self._is_hanging = False
        self._last_message = 0.0
        self._stuck_since: float | None = None
        self._num_misses = 0

    async def run(self) -> None:
        """Keep the worker alive until this task is cancelled, or its first start fails."""
        try:
            await self._keep()
        except asyncio.CancelledError:
            if not self.loaded.done():
                self.loaded.set_exception(OSError("the server was stopped while it loaded the model"))
            raise

    async def _keep(self) -> None:
        num_deaths = 0
        while True:
            began = time.monotonic()
            try:
                how = await self._live()
            except Exception as error:  # a mistake of ours must not take a worker away for good
                traceback.print_exc()
                how = f"{type(error).__name__}: {error}"
            if not self.loaded.done():
                self.loaded.set_exception(self._start_error(how))
                return
            num_deaths = 1 if time.monotonic() - began > self.patience.stable else num_deaths + 1
            seconds = min(self.patience.restart * 2.0 ** min(num_deaths - 1, 30), self.patience.max_restart)
            self.restart_at = time.monotonic() + seconds
            notice(f"worker {self.number} ended ({how}) and is started again in {seconds:g} s")
            await asyncio.sleep(seconds)
            self.num_restarts += 1
            notice(f"worker {self.number} loads the model again")

    def submit(self, open_job: OpenJob) -> None:
        """Have the worker answer a job."""
        self.jobs[open_job.job.id] = open_job
        self._process.send(Submit(open_job.hand_over(time.monotonic())))

    def cancel(self, open_job: OpenJob) -> None:
        """Have the worker forget a job, if it has it."""
        if self.jobs.pop(open_job.job.id, None) is not None:
            self._process.send(Cancel(open_job.job.id))

    def note_timeout(self) -> None:
        """Take note that a job has run out of time. The worker's next progress clears this."""
        if self._stuck_since is None:
            self._stuck_since = time.monotonic()

    def check(self) -> None:
        """Kill the worker if it hangs."""
        now = time.monotonic()
        is_silent = self.is_ready and now - self._last_message > self.patience.silence
        is_stuck = False
        if self._stuck_since is not None and self.jobs:
            first = min(open_job.started for open_job in self.jobs.values())
            is_stuck = now - max(self._stuck_since, first) > self.patience.stuck
        self._num_misses = self._num_misses + 1 if is_silent or is_stuck else 0
        if self._num_misses >= NUM_MISSES and self._process is not None:
            self._is_hanging = True
            self._process.kill()

    async def _live(self) -> str:
        """Start the worker and follow it to its end; return how it ended."""
        self._refusal, self._is_hanging, self._stuck_since, self._num_misses = None, False, None, 0
        try:
            self._process = await WorkerProcess.open(self.start)
        except OSError as error:
            return f"it could not be started: {error}"
        how = "at the end of the server"
        try:
            async for message in self._process.messages():
                self._take(message)
        finally:
            self.is_ready, self.stats = False, EngineStats()
            try:
                how = ending(await _whole(self._process.close()))
            finally:
                self._process = None
                self._fail_jobs("stopped responding" if self._is_hanging else f"ended ({how})")
        if self._refusal is not None:
            return self._refusal.message
        return f"{how}: it did not respond" if self._is_hanging else how

    def _take(self, message: FromWorker) -> None:
        self._last_message = time.monotonic()
        if isinstance(message, Heartbeat):
            self._take_stats(message.stats)
        elif isinstance(message, Ready):
            self.is_ready = True
            if self.num_restarts:
                notice(f"worker {self.number} is ready again")
            if not self.loaded.done():
                self.loaded.set_result(message.info)
            self.report(None)
        elif isinstance(message, NotReady):
            self._refusal = message
        else:
            self._take_event(message)

    def _take_stats(self, stats: EngineStats) -> None:
        if _progress(stats) != _progress(self.stats):
            self._stuck_since = None
        self.stats = stats

    def _take_event(self, event: JobEvent) -> None:
        if isinstance(event, Delta | Ended):  # others do not come from the model
            self._stuck_since = None
        elif isinstance(event, Failed) and event.status == 504:
            self.note_timeout()
        open_job = self.jobs.get(event.job_id)
        if open_job is None:  # cancelled
            return
        open_job.put(event)
        if open_job.is_overflowing:
            self.cancel(open_job)
        if open_job.is_done:
            self.jobs.pop(event.job_id, None)
            self.report(open_job)

    def _fail_jobs(self, what: str) -> None:
        jobs, self.jobs = self.jobs, {}
        for open_job in jobs.values():
            text = f"the process that computed this answer {what}: send the request again"
            open_job.fail(500, "worker_died", text)
        self.report(None)

    def _start_error(self, how: str) -> Exception:
        if self._refusal is not None and self._refusal.is_mistake:
            return ValueError(how)
        if self._refusal is not None:
            return OSError(f"the model could not be loaded: {how}")
        hint = "; perhaps the machine has too little memory for it" if how == "signal 9" else ""
        return OSError(f"the process that loads the model ended ({how}){hint}")


def _progress(stats: EngineStats) -> tuple:
    """Return the figures that change only when the model computes."""
    return stats.num_preemptions, stats.prefix_queries, stats.images_encoded, stats.cache_usage


async def _whole(work: Coroutine[Any, Any, int]) -> int:
    """Wait for work to be complete, even if this task is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
