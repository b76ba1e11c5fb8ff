"""A port that passes connections on to a worker, so that a web page has one address whatever worker answers."""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
from collections.abc import Callable
from urllib.parse import urlsplit

from ...terminal.log import notice
from ..errors import ApiError
from ..listener import open_socket

BLOCK = 64 << 10  # bytes
ENDINGS = (
    OSError,
    asyncio.TimeoutError,
    asyncio.IncompleteReadError,
    asyncio.LimitOverrunError,
    asyncio.CancelledError,
)
HEAD_SECONDS = 10.0  # to read a request that cannot be passed on
REST_SECONDS = 2.0  # for what else a client sends, before the connection is closed
NO_WORKER = """<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>LLaVA</title>
<style>
:root {{ color-scheme: light dark; font: 1rem/1.6 system-ui, sans-serif }}
body {{ max-width: 36rem; margin: 15vh auto 0; padding: 0 1rem; overflow-wrap: anywhere }}
</style>
<h1>No model yet</h1>
<p>No worker answers: {reason}. This page tries again every two seconds.</p>
<p lang="zh">还没有可用的模型进程，本页每两秒重试一次。</p>
"""


async def forward(host: str, port: int, find_worker: Callable[[], str]) -> asyncio.Server:
    """Return a server whose connections go to the worker that `find_worker` names at that moment.

    find_worker: runs in a thread; returns http://HOST:PORT, or "" if there is no worker; raises ValueError with the
    reason if it cannot tell. Bytes are passed on as they come, so that streams stay streams. Raises ValueError if the
    port cannot be used.
    """

    news = _News()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # An error means that one of the two sides has gone, or this server ends: the other side is closed.
        with contextlib.suppress(*ENDINGS):
            await _pass_on(reader, writer, find_worker, news)
        writer.close()

    return await asyncio.start_server(connected, sock=open_socket(host, port))


class _News:
    """Tells the log when a worker answers, and when none does any more."""

    def __init__(self):
        self._is_there: bool | None = None

    def tell(self, is_there: bool, text: str) -> None:
        """Print a text if it is news."""
        if is_there != self._is_there:
            notice(text)
        self._is_there = is_there


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, find_worker: Callable[[], str], news: _News
) -> None:
    try:
        there, back, address = await _connect(find_worker)
    except ValueError as error:
        news.tell(False, f"no worker answers: {error}")
        return await _say_why(reader, writer, str(error))
    news.tell(True, f"the worker {address} answers")
    tasks = [asyncio.create_task(_copy(reader, back)), asyncio.create_task(_copy(there, writer))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)  # a request is cancelled with its connection
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        back.close()


async def _connect(find_worker: Callable[[], str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    """Return both sides of a connection to a worker, and its address. Raises ValueError with the reason if none."""
    address = await asyncio.to_thread(find_worker)
    if not address:
        raise ValueError("none is registered; start model_worker")
    parts = urlsplit(address)
    try:
        there, back = await asyncio.open_connection(parts.hostname, parts.port or 80)
    except OSError:  # its text names only numbers
        raise ValueError(f"the worker {address} cannot be reached") from None
    return there, back, address


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while block := await reader.read(BLOCK):
        writer.write(block)
        await writer.drain()


async def _say_why(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reason: str) -> None:
    """Answer a request that cannot be passed on."""
    request = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_SECONDS)
    if request.split(b" ", 2)[1].startswith(b"/v1/"):
        kind, error = "application/json", ApiError(503, f"no worker answers: {reason}", code="no_worker")
        body = json.dumps(error.body).encode()
    else:
        kind, body = "text/html; charset=utf-8", NO_WORKER.format(reason=html.escape(reason)).encode()
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: {kind}\r\nRetry-After: 2\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    writer.write_eof()
    await asyncio.wait_for(_discard(reader), REST_SECONDS)  # a body that nobody reads would reset the connection


async def _discard(reader: asyncio.StreamReader) -> None:
    while await reader.read(BLOCK):
        pass
