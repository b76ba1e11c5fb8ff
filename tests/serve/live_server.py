"""An app on a real socket of this machine, and small clients for tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from fake_backend import FakeBackend

from paddlemix.serve.app import create_app
from paddlemix.serve.guards.connections import TimedProtocol
from paddlemix.serve.monitor.request_log import RequestLog
from paddlemix.serve.settings import Limits, ModelOptions, ServeSettings

SETTINGS = ServeSettings(ModelOptions(Path("tiny")), names=("tiny", "other"), limits=Limits(stop_seconds=2.0))
DOT = "data:image/png;base64,iVBORw0KGgo="


def settings(**changes: Any) -> ServeSettings:
    """Return settings with some fields changed; names of limits change limits."""
    limits = {name: changes.pop(name) for name in list(changes) if name in vars(SETTINGS.limits)}
    return replace(SETTINGS, limits=replace(SETTINGS.limits, **limits), **changes)


@contextlib.contextmanager
def served(app) -> Iterator[str]:
    """Serve an app on a free port of this machine; yield its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=TimedProtocol, log_config=None, lifespan="on", timeout_graceful_shutdown=3)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        threading.Event().wait(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


@contextlib.contextmanager
def fake_server(
    backend: FakeBackend | None = None, *, log_lines: list[str] | None = None, **changes: Any
) -> Iterator[tuple[str, FakeBackend]]:
    """Serve a fake backend; yield the address and the backend, when it is ready. log_lines: gets those of the log."""
    backend, served_settings = backend or FakeBackend(), settings(**changes)
    lines = [] if log_lines is None else log_lines
    app = create_app(served_settings, backend, log=RequestLog(served_settings.is_logging_requests, lines.append))
    with served(app) as address:
        while not app.state.serving.is_loaded and backend.start_error is None and not backend.start_seconds:
            threading.Event().wait(0.01)
        yield address, backend


def chunks_of(text: str) -> list[Any]:
    """Return the events of a stream; the last one is "[DONE]"."""
    lines = [line for line in text.split("\n") if line.startswith("data: ")]
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


def question(text: Any = "Hello", **fields: Any) -> dict[str, Any]:
    """Return the body of a chat request."""
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **fields}


def image_part(url: Any = DOT, **fields: Any) -> dict[str, Any]:
    """Return the part of a content that is an image."""
    return {"type": "image_url", "image_url": {"url": url, **fields}}
