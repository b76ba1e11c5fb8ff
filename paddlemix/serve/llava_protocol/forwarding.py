"""A port that passes connections on to a worker, so that a web page has one address whatever worker answers."""

from __future__ import annotations

import asyncio
import contextlib
import html
from collections.abc import Callable
from urllib.parse import urlsplit

BLOCK = 64 << 10  # bytes
ENDINGS = (
    OSError,
    asyncio.TimeoutError,
    asyncio.IncompleteReadError,
    asyncio.LimitOverrunError,
    asyncio.CancelledError,
)
HEAD_SECONDS = 10.0  # to read a request that cannot be passed on
NO_WORKER = """<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="2"><title>LLaVA</title>
<p>No worker answers yet: {reason}. This page tries again every two seconds.</p>
<p lang="zh">还没有可用的模型进程，本页每两秒重试一次。</p>
"""


async def forward(host: str, port: int, find_worker: Callable[[], str]) -> asyncio.Server:
    """Return a server whose connections go to the worker that `find_worker` names at that moment.

    find_worker: runs in a thread; returns http://HOST:PORT, or "" if there is no worker; raises ValueError with the
    reason if it cannot tell. Bytes are passed on as they come, so that streams stay streams.
    """

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # An error means that one of the two sides has gone, or this server ends: the other side is closed.
        with contextlib.suppress(*ENDINGS):
            await _pass_on(reader, writer, find_worker)
        writer.close()

    return await asyncio.start_server(connected, host, port)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, find_worker: Callable[[], str]) -> None:
    try:
        address = await asyncio.to_thread(find_worker)
        if not address:
            raise ValueError("none is registered; start model_worker")
        parts = urlsplit(address)
        there, back = await asyncio.open_connection(parts.hostname, parts.port or 80)
    except (OSError, ValueError) as error:
        return await _say_why(reader, writer, str(error))
    tasks = [asyncio.create_task(_copy(reader, back)), asyncio.create_task(_copy(there, writer))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)  # a request is cancelled with its connection
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        back.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while block := await reader.read(BLOCK):
        writer.write(block)
        await writer.drain()


async def _say_why(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reason: str) -> None:
    """Answer a request that cannot be passed on."""
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_SECONDS)
    body = NO_WORKER.format(reason=html.escape(reason)).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html; charset=utf-8\r\nRetry-After: 2\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
