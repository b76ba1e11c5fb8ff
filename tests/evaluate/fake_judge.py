"""A judge on this machine: a chat endpoint that answers as a test says, and fails on demand."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from paddlemix.evaluate.judging.judge import JudgeLimits

KEY = "sk-secret-of-the-tests"
LIMITS = JudgeLimits(connect=2, read=2, total=5, retry=0.01, max_retry=0.02, max_retries=3, max_asked_wait=5)


class FakeJudge(ThreadingHTTPServer):
    """answer: makes the text of a reply of a request's body; None is an answer that never comes.

    failures: of the next requests, before any is answered: (status, headers, body), or "drop" for a connection that is
    closed. seen: the bodies of all requests. headers: theirs.
    """

    daemon_threads = True

    def __init__(self, answer: Callable[[dict], str | None]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.failures: list = []
        self.seen: list[dict] = []
        self.headers: list[dict] = []
        self.paths: list[str] = []
        self.lock = threading.Lock()
        self.num_running = 0
        self.most_running = 0
        self.seconds = 0.0  # that an answer takes
        self.is_over = threading.Event()
        self.served = "gpt-test-0613"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address) -> None:
        """Say nothing: clients that are killed close their connections."""


class Handler(BaseHTTPRequestHandler):
    server: FakeJudge

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        judge = self.server
        with judge.lock:
            judge.seen.append(body)
            judge.headers.append(dict(self.headers))
            judge.paths.append(self.path)
            failure = judge.failures.pop(0) if judge.failures else None
            judge.num_running += 1
            judge.most_running = max(judge.most_running, judge.num_running)
        try:
            time.sleep(judge.seconds)
            self._answer(judge, body, failure)
        finally:
            with judge.lock:
                judge.num_running -= 1

    def _answer(self, judge: FakeJudge, body: dict, failure) -> None:
        if failure == "drop":
            self.close_connection = True
        elif failure is not None:
            self._send(*failure)
        else:
            text = judge.answer(body)
            if text is None:
                judge.is_over.wait(30)
                return
            self._send(200, {}, completion(text, judge.served))

    def _send(self, status: int, headers: dict[str, str], body: object) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *values) -> None:
        """Print nothing."""


def completion(text: str | None, model: str = "gpt-test-0613", finish_reason: str = "stop") -> dict:
    """Return a chat completion as servers send it."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": model, "choices": [choice]}


def refusal(status: int, message: str, **more) -> tuple[int, dict, dict]:
    """Return a failure in OpenAI's form."""
    return status, {}, {"error": {"message": message, "type": "invalid_request_error", **more}}


@contextlib.contextmanager
def running(answer: Callable[[dict], str | None] = lambda body: "8 9\nBecause.") -> Iterator[FakeJudge]:
    """Yield a judge that answers until the block ends."""
    with FakeJudge(answer) as judge:
        thread = threading.Thread(target=judge.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield judge
        finally:
            judge.is_over.set()
            judge.shutdown()
            thread.join()
