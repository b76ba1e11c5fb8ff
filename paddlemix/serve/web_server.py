"""The web server around the app: its socket, its signals, and what it tells the person who starts it."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shlex
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from ..terminal.log import notice
from .app import create_app
from .guards.connections import TimedProtocol
from .guards.origins import is_loopback
from .protocol import Backend
from .serving import Serving
from .settings import ServeSettings

KEEP_ALIVE_SECONDS = 75  # longer than the 60 s after which proxies reuse no connection, so that they close it first
CLOSING_SECONDS = 5  # for connections when all answers are given
MAX_PORT = 65535
NO_LOOPBACK = ("0.0.0.0", "::", "")


def run_server(settings: ServeSettings, backend: Backend, listener: socket.socket) -> int:
    """Serve until SIGTERM or Ctrl-C; return the exit code. Raises ValueError or OSError for what a user can cause.

    listener: of `open_socket`, which is closed.
    """
    address = address_of(settings.host, listener.getsockname()[1])
    app = create_app(settings, backend)
    if not settings.api_keys and not is_loopback(settings.host):
        notice(
            f"WARNING: the server listens at {settings.host} without a key: everyone who reaches this machine can use "
            "it; --api-key sets one"
        )
    server = WebServer(app, lambda: _greet(settings, backend, address))
    asyncio.run(server.serve(sockets=[listener]))
    if server.failure is not None:
        raise server.failure
    return 0


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket for a server. Raises ValueError if the address cannot be used."""
    if not 0 <= port <= MAX_PORT:  # the system would take its lower 16 bits
        raise ValueError(f"--port {port} is no port: expected 0 to {MAX_PORT}")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ValueError(f"--host {host} is no address of this machine: {error}") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(
            0
        )  # NOTE: with SO_REUSEADDR, Linux reports a busy port here for a socket bound at the same time
    except OSError as error:
        listener.close()
        raise ValueError(_explained(host, port, error)) from None
    return listener


def _explained(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use: stop the program that uses it, or take another with --port (0: any)"
    if error.errno == errno.EACCES:
        return f"port {port} may not be used: ports below 1024 need more rights; take another with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is no address of this machine: use 127.0.0.1, or 0.0.0.0 for all"
    return f"{host}:{port} cannot be used: {error.strerror or error}"


def address_of(host: str, port: int) -> str:
    """Return the address at which this machine reaches a server."""
    host = "127.0.0.1" if host in NO_LOOPBACK else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class WebServer(uvicorn.Server):
    """A server that answers what runs before it stops. failure: why the model could not be loaded."""

    def __init__(self, app, on_ready):
        super().__init__(
            uvicorn.Config(
                app,
                http=TimedProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=CLOSING_SECONDS,
            )
        )
        self.failure: BaseException | None = None
        self._serving: Serving = app.state.serving
        self._serving.on_ready, self._serving.on_failure = on_ready, self._fail
        self._stopping: asyncio.Task | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop gracefully at SIGTERM and Ctrl-C, in place of uvicorn's rules, which end streams in the middle."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self._take_signal, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _take_signal(self, number: int) -> None:
        if self._stopping is None:
            seconds = self._serving.settings.limits.stop_seconds
            notice(f"stopping: running answers have {seconds:g} s; Ctrl-C again stops at once")
            self._stopping = asyncio.create_task(self._stop())
        elif number == signal.SIGINT:
            sys.stdout.flush()
            os._exit(130)  # processes with the model end when they lose this one

    async def _stop(self) -> None:
        await self._serving.stop()
        self.should_exit = True

    def _fail(self, error: BaseException) -> None:
        self.failure = error
        self.should_exit = True


def _greet(settings: ServeSettings, backend: Backend, address: str) -> None:
    """Print where the page is, and a first request."""
    info, name = backend.info, settings.names[0]
    print(f"Serving {name} ({info.template}, {info.max_model_len} tokens of context) on {info.device} in {info.dtype}")
    print(f"Page:  {address}/\nAPI:   {address}/v1")
    key = " -H 'Authorization: Bearer KEY'" if settings.api_keys else ""
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello"}]})
    print(f"Try:   curl {address}/v1/chat/completions -H 'Content-Type: application/json'{key} -d {shlex.quote(body)}")
    sys.stdout.flush()
