"""Answer a request for answers: read it, run its jobs, and send what comes, whole or as a stream."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from ..errors import ApiError
from ..guards.body_limit import ClientGone
from ..serving import Serving, serving_of
from .exchange import Exchange
from .field_rules import ignored_header
from .job_events import OpenedEvents, events_of, opened, while_connected
from .plan import Plan
from .sse import EventStream

GRACE_SECONDS = 30.0  # beyond the time limit of a job, for a client that reads slowly
Planner = Callable[[Serving, bytes, str], Awaitable[Plan]]


async def respond(request: Request, planner: Planner) -> Response:
    """Return the answer to a request. planner: makes the plan of its body."""
    exchange = Exchange(serving_of(request), request)
    try:
        return await _respond(request, planner, exchange)
    except ApiError as error:
        exchange.end(error.status, error)
        raise
    except ClientGone:
        exchange.end_gone()
        raise
    except BaseException:
        exchange.end(500)
        raise


async def _respond(request: Request, planner: Planner, exchange: Exchange) -> Response:
    serving = exchange.serving
    await serving.bodies.read(request, exchange.body)
    plan = await while_connected(request, planner(serving, exchange.body.taken(), uuid.uuid4().hex))
    await while_connected(request, serving.schemas.check(plan.jobs[0].sampling.grammar))
    exchange.begin(plan)
    events = await while_connected(request, opened(events_of(serving.backend, plan.jobs, plan.session)))
    exchange.body.release()  # a process with the model has the images
    headers = ignored_header(plan.ignored)
    if plan.is_stream:
        seconds = serving.settings.limits.request_seconds + GRACE_SECONDS
        return EventStream(_chunks(plan, exchange, events), events, exchange.end_stream, seconds, headers)
    await while_connected(request, _collect(exchange, events))
    answer = plan.shape.whole(exchange.answers)
    exchange.end(200)
    return JSONResponse(answer, headers=headers)


async def _collect(exchange: Exchange, events: OpenedEvents) -> None:
    try:
        async for job, event in events:
            exchange.take(job, event)
    finally:
        await events.aclose()


async def _chunks(plan: Plan, exchange: Exchange, events: OpenedEvents) -> AsyncIterator[dict[str, Any]]:
    """Yield the chunks of a stream."""
    try:
        for chunk in plan.shape.opening(exchange.answers):
            yield chunk
        async for job, event in events:
            index = exchange.take(job, event)
            chunk = None if index is None else plan.shape.chunk(index, event, exchange.answers)
            if chunk is not None:
                yield chunk
        for chunk in plan.shape.closing(exchange.answers):
            yield chunk
    finally:
        await events.aclose()
