"""A real `paddlemix serve` with the bundled model in a process of its own, for tests."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paddlemix.constants import BUNDLED_MODEL

CHAT = "/v1/chat/completions"


class Served:
    """The server. port: on 127.0.0.1. log: the lines of its error output."""

    def __init__(self, process: subprocess.Popen, port: int):
        self.process, self.port = process, port
        self.log: list[str] = []
        for stream in (process.stdout, process.stderr):
            threading.Thread(target=self._collect, args=(stream,), daemon=True).start()

    def ask(
        self, body: Any, path: str = CHAT, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Send a request, as JSON unless it is bytes; return status, parsed answer and headers (lower case)."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = self.connect()
        try:
            method = "GET" if body is None else "POST"
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            text = answer.read().decode()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, json.loads(text) if text.startswith(("{", "[")) else text, found
        finally:
            connection.close()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def stream(self, body: dict[str, Any]) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Start a streamed answer; return its connection and its response."""
        connection = self.connect()
        data = json.dumps({**body, "stream": True})
        connection.request("POST", CHAT, data, {"Content-Type": "application/json"})
        return connection, connection.getresponse()

    def status(self) -> dict[str, Any]:
        return self.ask(None, "/v1/status")[1]

    def workers(self) -> list[int]:
        """Return the processes with the model."""
        return children(self.process.pid)

    def memory(self) -> int:
        """Return the resident bytes of the web process."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) << 10

    def _collect(self, stream) -> None:
        self.log += (line.rstrip("\n") for line in stream)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started; none if it has ended."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return sorted(int(child) for task in tasks for child in (task / "children").read_text().split())
    except OSError:
        return []


@contextlib.contextmanager
def served(*options: str, environment: dict[str, str] | None = None) -> Iterator[Served]:
    """Start a server with the bundled model, and stop it at the end, which must be graceful.

    environment: of the process, None for this one's.
    """
    words = ["serve", "--model-path", BUNDLED_MODEL, "--device", "cpu", "--port", "0", *options]
    code = "import sys; from paddlemix.cli import main; sys.exit(main(sys.argv[1:]))"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**(environment or os.environ), "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code, *words], text=True, env=environment, **pipes) as process:
        try:
            yield Served(process, _port_in(process))
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def _port_in(process: subprocess.Popen) -> int:
    """Wait for the server; it prints its address when the model is loaded."""
    for line in process.stdout:
        match = re.search(r"API:\s+http://127\.0\.0\.1:(\d+)", line)
        if match:
            return int(match[1])
    raise AssertionError(f"the server ended: {process.stderr.read()}")


def until(condition, seconds: float = 20.0) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)
