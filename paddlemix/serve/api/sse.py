"""Server-sent events: an answer in chunks, with comments that keep the connection alive while it waits."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from fastapi import Response

from ...terminal.log import notice
from ..errors import ApiError
from .job_events import OpenedEvents, disconnected

PING_SECONDS = 12.0
PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies pass each chunk on at once


class EventStream(Response):
    """A stream of JSON chunks.

    source: what the chunks are made of, closed at the end even if no chunk was taken. on_end: called once with the
    error that ended the stream, None for its regular end, and whether the client went away. max_seconds: after which a
    client that does not read is left.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        chunks: AsyncIterator[dict[str, Any]],
        source: OpenedEvents,
        on_end: Callable[[ApiError | None, bool], None],
        max_seconds: float,
        headers: Mapping[str, str],
    ):
        super().__init__(headers={**HEADERS, **headers})
        del self.headers["content-length"]
        self._chunks, self._source, self._on_end, self._max_seconds = chunks, source, on_end, max_seconds
        self._error: ApiError | None = None

    async def __call__(self, scope, receive, send) -> None:
        """Send the stream; end its jobs if the client goes away."""
        sender = asyncio.create_task(self._send(send))
        gone = asyncio.create_task(disconnected(receive))
        is_complete = False
        try:
            await asyncio.wait({sender, gone}, timeout=self._max_seconds, return_when=asyncio.FIRST_COMPLETED)
            is_complete = sender.done() and sender.exception() is None
        finally:
            sender.cancel()
            gone.cancel()
            await asyncio.gather(sender, gone, return_exceptions=True)
            await self._source.aclose()
            self._on_end(self._error, not is_complete)

    async def _send(self, send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for part in self._parts():
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _parts(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in with_pauses(self._chunks, PING_SECONDS):
                yield PING if chunk is None else data_line(chunk)
        except ApiError as error:
            self._error = error
        except Exception:
            notice(f"an answer failed:\n{traceback.format_exc()}")
            self._error = ApiError(500, "the server failed while it answered; its log has the reason")
        if self._error:
            yield data_line(self._error.body)
        yield DONE


def data_line(value: Any) -> bytes:
    """Return a chunk as an event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def with_pauses(items: AsyncIterator[Any], seconds: float) -> AsyncIterator[Any]:
    """Yield the items, and None each time that so many seconds pass without one."""
    pending = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(items))
            await asyncio.wait({pending}, timeout=seconds)
            if not pending.done():
                yield None
                continue
            done, pending = pending, None
            try:
                item = done.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
        await items.aclose()
