"""The controller of LLaVA's demo: a list of the workers that run, which a web page asks for one. Standard library only.

The routes are those of LLaVA's controller that such a page needs. Answers do not go through it.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from ...terminal.log import notice
from ..listener import open_socket

DISPATCH_METHODS = ("lottery", "shortest_queue")
SECONDS_TO_LOSS = 30.0  # without a heartbeat, as in LLaVA; workers send one every HEARTBEAT_SECONDS
HEARTBEAT_SECONDS = 15.0
MAX_BODY = 64 << 10  # bytes
SUPERSEDED = ("/worker_generate_stream", "/worker_get_status")


@dataclass
class Entry:
    """A worker: the models that it has, how many requests it was given since its last heartbeat, and when that was."""

    models: tuple[str, ...]
    num_open: int
    seen: float


class WorkerRegistry:
    """The workers by address. Several threads may use it."""

    def __init__(self, method: str = "shortest_queue", clock: Callable[[], float] = time.monotonic):
        self._method = method
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._lock = threading.Lock()

    def register(self, address: str, models: tuple[str, ...], num_open: int = 0) -> None:
        """Add a worker. Raises ValueError for an address that is not http://HOST:PORT."""
        parts = urlsplit(address)
        if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
            raise ValueError(f"the address of a worker is {address!r}: expected http://HOST:PORT")
        with self._lock:
            is_new = address not in self._entries
            self._entries[address] = Entry(models, num_open, self._clock())
        if is_new:
            notice(f"worker {address} is registered, with {', '.join(models)}")

    def beat(self, address: str, num_open: int) -> bool:
        """Note that a worker lives; return whether it is known. One that is not has to register."""
        with self._lock:
            entry = self._entries.get(address)
            if entry is not None:
                entry.num_open, entry.seen = num_open, self._clock()
            return entry is not None

    def models(self) -> list[str]:
        """Return the names of all models."""
        self.forget_lost()
        with self._lock:
            return sorted({model for entry in self._entries.values() for model in entry.models})

    def address_for(self, model: str) -> str:
        """Return the address of a worker with a model, "" if there is none."""
        self.forget_lost()
        with self._lock:
            found = {address: entry for address, entry in self._entries.items() if model in entry.models}
            if not found:
                return ""
            if self._method == "lottery":
                return random.choice(list(found))
            address = min(found, key=lambda each: found[each].num_open)
            found[address].num_open += 1
            return address

    def forget_lost(self) -> None:
        """Forget workers that have sent no heartbeat for too long."""
        end = self._clock() - SECONDS_TO_LOSS
        with self._lock:
            lost = [address for address, entry in self._entries.items() if entry.seen < end]
            for address in lost:
                del self._entries[address]
        for address in lost:
            notice(f"worker {address} is gone: no sign of it for {SECONDS_TO_LOSS:.0f} seconds")


def controller_server(registry: WorkerRegistry, host: str, port: int) -> ThreadingHTTPServer:
    """Return an HTTP server for a registry; `serve_forever` runs it. Raises ValueError if the port cannot be used."""

    class Handler(_Handler):
        routes = _routes(registry)

    class Server(ThreadingHTTPServer):
        def service_actions(self) -> None:
            registry.forget_lost()

    server = Server((host, port), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = open_socket(host, port)
    server.server_address = server.socket.getsockname()
    server.server_name, server.server_port = host, server.server_address[1]
    server.server_activate()
    return server


def _routes(registry: WorkerRegistry) -> Mapping[str, Callable[[Mapping[str, Any]], Any]]:
    def register(data: Mapping[str, Any]) -> None:
        status = data["worker_status"]
        registry.register(str(data["worker_name"]), tuple(map(str, status["model_names"])), status["queue_length"])

    return {
        "/register_worker": register,
        "/receive_heart_beat": lambda data: {"exist": registry.beat(data["worker_name"], int(data["queue_length"]))},
        "/list_models": lambda data: {"models": registry.models()},
        "/get_worker_address": lambda data: {"address": registry.address_for(data["model"])},
        "/refresh_all_workers": lambda data: None,  # workers are refreshed by their heartbeats
    }


class _Handler(BaseHTTPRequestHandler):
    routes: Mapping[str, Callable[[Mapping[str, Any]], Any]]
    timeout = 10.0  # seconds for a request

    def do_GET(self) -> None:
        if self.path != "/":
            return self._reply(404, {"error": f"there is no GET {self.path} here"})
        about = "the controller of LLaVA's demo: model_worker registers here, gradio_web_server has the page"
        self._reply(200, {"about": about, **self.routes["/list_models"]({})})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY:
            return self._reply(413, {"error": f"a body has at most {MAX_BODY} bytes and a Content-Length"})
        body = self.rfile.read(int(length)) or b"{}"
        if self.path not in self.routes:
            hint = "; answers come from the workers, at /v1/chat/completions" if self.path in SUPERSEDED else ""
            return self._reply(404, {"error": f"there is no {self.path} here{hint}"})
        try:
            self._reply(200, self.routes[self.path](json.loads(body)))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            self._reply(400, {"error": f"this is no request of LLaVA's protocol: {error}"})

    def _reply(self, status: int, answer: Any) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing for each request: there is one for each heartbeat."""
