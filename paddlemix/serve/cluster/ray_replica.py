"""What runs in the processes of a Ray cluster: the model in each replica, and one board with the state of all."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import AsyncIterator
from typing import Any

from ..protocol import Ended, EngineStats, Failed, Job, JobEvent, ModelInfo, Status
from ..settings import ModelOptions

HOST = "paddlemix.serve.model.host:EngineHost"
SECONDS_TO_LOSS = 10.0  # without a report, after which a replica counts as dead; it reports every second or two


class StatusBoard:
    """The last report of each replica. Ray has one of it; the web side of the cluster reads it."""

    def __init__(self):
        self._reports: dict[str, tuple[float, EngineStats]] = {}
        self._num_lost = 0

    async def report(self, replica: str, stats: EngineStats) -> None:
        """Note how a replica is now."""
        self._reports[replica] = time.monotonic(), stats

    async def leave(self, replica: str) -> None:
        """Forget a replica that was stopped on purpose."""
        self._reports.pop(replica, None)

    async def status(self) -> Status:
        """Return the state of all replicas that have reported lately; the others count as lost."""
        now = time.monotonic()
        lost = [name for name, (then, _) in self._reports.items() if now - then > SECONDS_TO_LOSS]
        self._num_lost += len(lost)
        for name in lost:
            del self._reports[name]
        workers = tuple(stats for _, stats in self._reports.values())
        return Status(is_ready=bool(workers), num_workers=len(workers), num_restarts=self._num_lost, workers=workers)


class ModelReplica:
    """A process with the model. board: a handle of the `StatusBoard`. host: module and class that answer jobs."""

    def __init__(self, options: ModelOptions, board: Any, host: str = HOST):
        from ray import serve

        from ...device import prepare_environment

        prepare_environment(options.device)
        module, _, name = host.partition(":")
        self._host = getattr(importlib.import_module(module), name)(options)
        self._board = board
        self._name = serve.get_replica_context().replica_id.unique_id
        # Ray sends what asks for a model to a replica that has loaded it. Here each replica has one of its own name.
        self._announce = serve.multiplexed(max_num_models_per_replica=1)(_same)

    async def info(self) -> ModelInfo:
        """Return what the model is."""
        return self._host.info

    async def check_health(self) -> None:
        """Report to the board. Ray calls this every `health_check_period_s` and replaces a replica that raises."""
        await self._announce(self._name)
        await self._board.report.remote(self._name, self._host.stats())

    async def answer(self, job: Job) -> AsyncIterator[tuple[str, list[JobEvent]]]:
        """Yield the events of a job, those that have come together in one list, with the name of this replica.

        Closing the iterator cancels the job.
        """
        loop, events = asyncio.get_running_loop(), asyncio.Queue()
        self._host.submit(job, lambda event: loop.call_soon_threadsafe(events.put_nowait, event))
        num_open = job.num_answers
        try:
            while num_open > 0:
                found = [await events.get()]
                while not events.empty():
                    found.append(events.get_nowait())
                yield self._name, found
                num_open -= sum(isinstance(event, Ended) for event in found)
                if any(isinstance(event, Failed) for event in found):
                    return
        finally:
            self._host.cancel(job.id)

    async def __del__(self):
        """Free the model when Ray stops the replica."""
        if "_host" in vars(self):  # its constructor has not raised
            self._host.close()
            await self._board.leave.remote(self._name)


async def _same(name: str) -> str:
    """Return what a replica has loaded under its name: nothing but the name."""
    return name
