"""Run the jobs of a request: one stream of their events, which ends all of them when it is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import TypeVar

from fastapi import Request

from ..errors import ApiError
from ..guards.body_limit import ClientGone
from ..protocol import Backend, Failed, Job, JobEvent

MAX_RUNNING = 8  # jobs of one request at a time; the rest wait here, not in the queue for all
Numbered = tuple[int, JobEvent]  # the number of a job, and its event
Result = TypeVar("Result")


async def events_of(backend: Backend, jobs: list[Job], session: str) -> AsyncIterator[Numbered]:
    """Yield the events of all jobs as they come. Raises ApiError if one fails, which ends the others.

    The jobs are taken out of the list, so that their images are freed when a process with the model has them.
    """
    if len(jobs) == 1:
        async for event in _checked(backend, jobs, session):
            yield 0, event
        return
    lists = [[job] for job in jobs]
    jobs.clear()
    queue: asyncio.Queue[Numbered | Exception | None] = asyncio.Queue(maxsize=MAX_RUNNING)
    places = asyncio.Semaphore(MAX_RUNNING)
    tasks = [
        asyncio.create_task(_feed(queue, places, number, _checked(backend, one, session)))
        for number, one in enumerate(lists)
    ]
    try:
        num_open = len(tasks)
        while num_open:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            num_open -= item is None
            if item is not None:
                yield item
    finally:
        await _cancelled(tasks)


class OpenedEvents:
    """Events of which the first has come. Closing them ends their jobs, even if none has been taken."""

    def __init__(self, first: Numbered | None, events: AsyncIterator[Numbered]):
        self._first, self._events = first, events

    def __aiter__(self) -> OpenedEvents:
        return self

    async def __anext__(self) -> Numbered:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await anext(self._events)

    async def aclose(self) -> None:
        """End the jobs."""
        await self._events.aclose()


async def opened(events: AsyncIterator[Numbered]) -> OpenedEvents:
    """Wait for the first event, so that a request that is refused has a status of its own; return all events."""
    return OpenedEvents(await anext(events, None), events)


async def while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """Return the result of some work, or cancel it and raise ClientGone when the client goes away."""
    task, gone = asyncio.ensure_future(work), asyncio.create_task(disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        await _cancelled([task, gone])


async def disconnected(receive) -> None:
    """Wait until the client closes its connection. receive: of ASGI, after the body."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _checked(backend: Backend, jobs: list[Job], session: str) -> AsyncIterator[JobEvent]:
    """Yield the events of the one job of a list, which is empty then."""
    events = backend.answer(jobs.pop(), session)
    try:
        async for event in events:
            if isinstance(event, Failed):
                raise ApiError(event.status, event.message, type=event.type, param=event.param, code=event.code)
            yield event
    finally:
        await events.aclose()


async def _feed(queue: asyncio.Queue, places: asyncio.Semaphore, number: int, events: AsyncIterator[JobEvent]) -> None:
    """Put the events of one job into the queue of all, then None or the error that ended it."""
    last = None
    try:
        async with places:
            async for event in events:
                await queue.put((number, event))
    except Exception as error:  # raised again by the reader of the queue
        last = error
    finally:
        await events.aclose()
    await queue.put(last)


async def _cancelled(tasks: Sequence[asyncio.Future]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
