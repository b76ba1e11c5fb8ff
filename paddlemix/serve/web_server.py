"""The web server around the app: its socket, its signals, and what it tells the person who starts it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import uvicorn

from ..terminal.log import notice
from ..terminal.sizes import plural
from ..terminal.style import spinner
from .app import create_app
from .greeting import greet, warn_if_open
from .guards.connections import TimedProtocol
from .listener import address_of
from .protocol import Backend
from .serving import Serving
from .settings import ServeSettings

KEEP_ALIVE_SECONDS = 75  # longer than the 60 s after which proxies reuse no connection, so that they close it first
CLOSING_SECONDS = 5  # for connections when all answers are given


def run_server(settings: ServeSettings, backend: Backend, listener: socket.socket) -> int:
    """Serve until SIGTERM or Ctrl-C; return the exit code. Raises ValueError or OSError for what a user can cause.

    listener: of `listener.open_socket`, which is closed.
    """
    address = address_of(settings.host, listener.getsockname()[1])
    app = create_app(settings, backend)
    warn_if_open(settings)
    workers = "" if settings.num_workers == 1 else f"{settings.num_workers} workers"
    with ExitStack() as waiting:
        waiting.enter_context(spinner(f"loading {settings.names[0]}"))

        def tell() -> None:
            waiting.close()
            greet(settings, backend.info, address, workers)

        server = WebServer(app, tell)
        asyncio.run(server.serve(sockets=[listener]))
    if server.is_interrupted:
        raise KeyboardInterrupt
    if server.failure is not None:
        raise server.failure
    return 0


class WebServer(uvicorn.Server):
    """A server that answers what runs before it stops.

    failure: why the model could not be loaded. is_interrupted: by Ctrl-C while it was loaded.
    """

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
        self.is_interrupted = False
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
        num_open = self._serving.metrics.num_open
        if self._stopping is None:
            self.is_interrupted = number == signal.SIGINT and not self._serving.is_loaded
            if num_open:
                seconds = self._serving.settings.limits.stop_seconds
                running = plural(num_open, "running request")
                notice(f"stopping: {running} may take {seconds:g} s; Ctrl-C again stops at once")
            elif self._serving.is_loaded:
                notice("stopping")
            self._stopping = asyncio.create_task(self._stop())
        elif number == signal.SIGINT:
            notice(f"stopped at once: {plural(num_open, 'request')} broken off")
            sys.stdout.flush()
            os._exit(130)  # processes with the model end when they lose this one

    async def _stop(self) -> None:
        await self._serving.stop()
        self.should_exit = True

    def _fail(self, error: BaseException) -> None:
        self.failure = error
        self.should_exit = True
