"""Pools of workers without a model (`fake_host`), for tests."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

from paddlemix.generate.sampling import SamplingParams
from paddlemix.serve.protocol import Delta, Job, JobEvent
from paddlemix.serve.settings import Limits, ModelOptions
from paddlemix.serve.workers.keeper import Patience
from paddlemix.serve.workers.pool import Pool

QUICK = Patience(beat=0.05, silence=0.6, stuck=0.6, late=0.2, restart=0.05, max_restart=0.4)
_NUMBERS = itertools.count()


def make_pool(
    path: Path | str = "model",
    num_workers: int = 1,
    *,
    max_running: int = 4,
    max_queue: int = 64,
    patience: Patience = QUICK,
    **settings: Any,
) -> Pool:
    options = ModelOptions(Path(path), max_running=max_running)
    limits = Limits(max_queue=max_queue)
    return Pool(options, limits, num_workers, host="fake_host:FakeHost", patience=patience, **settings)


@contextlib.asynccontextmanager
async def running(path: Path | str = "model", num_workers: int = 1, **settings: Any) -> AsyncIterator[Pool]:
    """Start a pool and stop it at the end."""
    pool = make_pool(path, num_workers, **settings)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.stop(0)


def job(prompt: str, **fields: Any) -> Job:
    return Job(f"job-{next(_NUMBERS)}", SamplingParams(), prompt=prompt, **fields)


async def events_of(pool: Pool, prompt: str, session: str = "", **fields: Any) -> list[JobEvent]:
    return [event async for event in pool.answer(job(prompt, **fields), session)]


async def facts_of(pool: Pool, session: str = "", **fields: Any) -> dict[str, Any]:
    """Return what a worker says about itself."""
    for event in await events_of(pool, "echo", session, **fields):
        if isinstance(event, Delta):
            return ast.literal_eval(event.text)
    raise AssertionError("no delta")


async def until(condition, seconds: float = 10.0) -> None:
    """Wait until an async condition is true."""
    for _ in range(round(seconds / 0.02)):
        if await condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come to that")


def run(main: Coroutine, seconds: float = 60.0) -> Any:
    """Run a test's coroutine; it fails if it takes longer."""
    return asyncio.run(asyncio.wait_for(main, seconds))
