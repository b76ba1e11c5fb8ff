"""One request for answers from its arrival to its last byte: what it holds, and what is told of it afterwards."""

from __future__ import annotations

import time

from fastapi import Request

from .answers import Answers
from .body_limit import Body
from .errors import ApiError
from .plan import Plan
from .serving import Serving

CLIENT_GONE = 499  # nginx's number for a client that closed its connection


class Exchange:
    """A request. Exactly one of the ends is used, and later ones are without effect."""

    def __init__(self, serving: Serving, request: Request):
        self.serving = serving
        self.body = Body(serving.bodies)
        self._request = request
        self._started = time.monotonic()
        self._plan: Plan | None = None
        self._answers: Answers | None = None
        self._is_open = True
        if serving.metrics is not None:
            serving.metrics.request_started()

    def begin(self, plan: Plan, answers: Answers) -> None:
        """Note what the request asks for, and where its answers grow."""
        self._plan, self._answers = plan, answers

    def end(self, status: int, error: ApiError | None = None) -> None:
        """Note that the request is answered, and free what it held."""
        if not self._is_open:
            return
        self._is_open = False
        self.body.release()

    def end_gone(self) -> None:
        """Note that the client went away."""
        self.end(CLIENT_GONE)

    def end_stream(self, error: ApiError | None, is_gone: bool) -> None:
        """Note the end of a stream."""
        if is_gone:
            self.end_gone()
        else:
            self.end(error.status if error else 200, error)
