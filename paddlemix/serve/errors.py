"""Errors of the API, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..terminal.sizes import plural

LOADING_SECONDS = 5  # that a client waits before it asks again while the model is loaded
STOPPING_SECONDS = 30  # until a server that stops may run again

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "unavailable_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """An answer with an error. param: the field of the request that is at fault. code: a word for programs.

    400 is what the client has caused, so that it does not try again; 429 and 503 have a Retry-After header.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.type = type or TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body of the answer."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def unavailable(code: str, what: str, seconds: int) -> ApiError:
    """Return a 503. what: why no request is answered now. seconds: after which a client tries again."""
    return ApiError(503, f"{what}; try again in {seconds} s", code=code, headers={"Retry-After": str(seconds)})


def stopping() -> ApiError:
    """Return the 503 of a server that stops."""
    return unavailable("stopping", "the server stops", STOPPING_SECONDS)


def queue_full(num_waiting: int, max_queue: int, seconds: int) -> ApiError:
    """Return a 429. num_waiting: answers that wait."""
    return ApiError(
        429,
        f"the server is busy: {plural(num_waiting, 'answer')} wait{'s' * (num_waiting == 1)} and the limit is "
        f"{max_queue}; try again in {seconds} s",
        code="queue_full",
        headers={"Retry-After": str(seconds)},
    )
