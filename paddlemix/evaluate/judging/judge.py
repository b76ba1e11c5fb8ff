"""Ask a judge: a model behind an OpenAI-compatible chat endpoint. Knows no benchmarks.

The key is sent to the server and goes nowhere else: no message and no file has it.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...web.clock import ExchangeClock
from ...web.request import OutOfTimeError, PassingWebError, WebError, printable, read_body, request
from .replies import JudgeError, Passing, Reply, Unsupported, read_answer
from .server import Server

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class JudgeLimits:
    """How long a judge may take, in seconds, and how often it is asked.

    connect, read, total: to open a connection, to wait for bytes, of one request with its answer. max_retries: after
    status 429 or 5xx, timeouts and broken connections, with waits from `retry` on, doubled up to `max_retry`.
    max_early_retries: while the server has never answered, because its address may be wrong. max_asked_wait: the
    longest Retry-After that is obeyed.
    """

    connect: float = 10.0
    read: float = 180.0
    total: float = 300.0
    max_bytes: int = 16 << 20
    max_retries: int = 8
    max_early_retries: int = 3
    retry: float = 1.0
    max_retry: float = 60.0
    max_asked_wait: float = 600.0


class NoAnswer(Exception):
    """A request got no answer after all retries. Asked again later, it may get one."""


class Judge:
    """A judge model. Requests may be sent from several threads.

    unsupported: settings that the model refused and that are no longer sent as they were: newer models of OpenAI take
    "max_completion_tokens" for "max_tokens", and no "temperature".
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        limits: JudgeLimits = JudgeLimits(),
    ):
        """Raise ValueError for an address or a key that cannot be used.

        base_url, api_key: those of the environment (OPENAI_BASE_URL, OPENAI_API_KEY) without them.
        """
        if not model.strip():
            raise ValueError("the judge has no model name: expected one that its server knows")
        self.model = model
        self.server = Server.of(
            os.environ.get("OPENAI_BASE_URL", "") if base_url is None else base_url,
            os.environ.get("OPENAI_API_KEY", "") if api_key is None else api_key,
        )
        self.limits = limits
        self.unsupported: set[str] = set()
        self._has_answered = False  # with any status
        self._has_replied = False
        self._resume_at = 0.0  # of time.monotonic(): the server asked all of us to wait until then

    def ask(
        self,
        messages: Messages,
        *,
        temperature: float,
        max_tokens: int,
        stop: threading.Event | None = None,
        on_wait: Callable[[str], None] = lambda text: None,
    ) -> Reply:
        """Return the answer to a chat. on_wait: gets the reason of each wait. stop: ends all waits.

        Raises JudgeError if the server refuses (RefusedRequest if it may be because of these messages), NoAnswer if it
        does not answer.
        """
        stop = stop or threading.Event()
        attempt = 0
        while True:
            stop.wait(max(self._resume_at - time.monotonic(), 0.0))
            if stop.is_set():
                raise NoAnswer("it was stopped before the judge answered")
            try:
                return self._exchange(self._body(messages, temperature, max_tokens))
            except Unsupported as refused:
                self.unsupported.add(refused.setting)
            except Passing as failure:
                seconds = self._seconds_to_wait(failure, attempt)
                attempt += 1
                on_wait(f"{failure}; next try in {seconds:.0f} s")
                stop.wait(seconds)

    def _seconds_to_wait(self, failure: Passing, attempt: int) -> float:
        """Return how long to wait before the next try. Raises NoAnswer, or JudgeError, if there is none."""
        limits = self.limits
        if failure.asked_wait > limits.max_asked_wait:
            raise NoAnswer(f"{failure}: the judge's server asks to wait {failure.asked_wait:.0f} s: try again then")
        if not self._has_answered and attempt >= limits.max_early_retries:
            raise JudgeError(
                f"{self.server.url} does not answer: {failure} ({attempt + 1} tries); check OPENAI_BASE_URL or "
                "--judge-url, and that the server runs"
            )
        if attempt >= limits.max_retries:
            raise NoAnswer(f"{failure} ({attempt + 1} tries)")
        if failure.asked_wait:
            self._resume_at = max(self._resume_at, time.monotonic() + failure.asked_wait)
            return failure.asked_wait
        # Up to half as long again, so that requests that failed together do not come back together.
        return min(limits.retry * 2**attempt, limits.max_retry) * random.uniform(1.0, 1.5)

    def _body(self, messages: Messages, temperature: float, max_tokens: int) -> dict[str, Any]:
        limit = "max_completion_tokens" if "max_tokens" in self.unsupported else "max_tokens"
        body = {"model": self.model, "messages": list(messages), limit: max_tokens}
        return body if "temperature" in self.unsupported else {**body, "temperature": temperature}

    def _exchange(self, body: Mapping[str, Any]) -> Reply:
        limits = self.limits
        try:
            with request(
                "POST",
                self.server.url,
                headers=self.server.headers(),
                timeout=(limits.connect, limits.read),
                clock=ExchangeClock(time.monotonic() + limits.total),
                accepted=range(100, 600),
                body=json.dumps(body).encode("ascii"),
            ) as response:
                status, headers = response.status_code, response.headers
                data = b"" if 300 <= status < 400 else read_body(response, limits.max_bytes, "its answer")
        except PassingWebError as error:
            raise Passing(self.server.shown(str(error))) from None
        except OutOfTimeError:
            raise Passing(f"no answer in {limits.total:g} s") from None
        except WebError as error:
            raise JudgeError(f"cannot ask {self.server.url}: {printable(self.server.shown(str(error)))}") from None
        self._has_answered = True
        reply = read_answer(self.server, status, headers, data, body, has_replied=self._has_replied)
        self._has_replied = True
        return reply
