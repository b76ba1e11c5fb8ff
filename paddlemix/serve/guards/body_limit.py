"""Read the body of a request within limits of size, of time, and of memory for all bodies together."""

from __future__ import annotations

import asyncio

from fastapi import Request

from ...terminal.sizes import in_bytes
from ..errors import ApiError
from ..settings import Limits

SMALL = 256 << 10  # bytes of a body that is always read, however many others there are
CLIENT_GONE = 499  # nginx's status for a client that closed its connection; nobody reads it
MAX_BODIES = 8  # bodies of the maximum size whose bytes are in memory at a time


class ClientGone(Exception):
    """The client has closed its connection, so that nobody waits for an answer."""


class Body:
    """The bytes of a body. They count until it is released: images are kept until their request is answered."""

    def __init__(self, reader: BodyReader):
        self._reader = reader
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, part: bytes) -> None:
        """Add a part. Raises ApiError 413 or 429 if there is no room for it."""
        self._reader.reserve(self._size, self._size + len(part))
        self._size += len(part)
        self._parts.append(part)

    def taken(self) -> bytes:
        """Return the bytes and keep them no longer."""
        data, self._parts = b"".join(self._parts), []
        return data

    def release(self) -> None:
        """Stop to count; may be called again."""
        self._reader.free(self._size)
        self._size, self._parts = 0, []


class BodyReader:
    """Reads bodies of requests, and knows how much those of all unanswered requests take."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._taken = 0

    async def read(self, request: Request, body: Body) -> None:
        """Read the body of a request. Raises ApiError 400, 408, 413 or 429, and ClientGone."""
        self._check_stated(request.headers.get("content-length"))
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise ApiError(400, f"the body is encoded as {encoding[:40]!r}: send it as it is", code="invalid_json")
        try:
            await asyncio.wait_for(_receive(request, body), self._limits.body_seconds)
        except asyncio.TimeoutError:
            seconds = f"{self._limits.body_seconds:g}"
            raise ApiError(408, f"the body did not arrive within {seconds} seconds", code="body_timeout") from None

    def reserve(self, before: int, after: int) -> None:
        """Count a body that grows. Raises ApiError."""
        if after > self._limits.max_body_bytes:
            raise self._too_large()
        growth = _counted(after) - _counted(before)
        if self._taken + growth > MAX_BODIES * self._limits.max_body_bytes:
            raise ApiError(
                429, "too many large requests at once: try again later", code="memory", headers={"Retry-After": "2"}
            )
        self._taken += growth

    def free(self, size: int) -> None:
        """Count a body no longer."""
        self._taken -= _counted(size)

    def _check_stated(self, stated: str | None) -> None:
        if stated is None:
            return
        if not stated.isdecimal():
            raise ApiError(400, f"the header Content-Length is {stated[:40]!r}: expected a number")
        if len(stated) > 20 or int(stated) > self._limits.max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> ApiError:
        limit = in_bytes(self._limits.max_body_bytes)
        return ApiError(413, f"the body is larger than {limit}: send fewer or smaller images", code="request_too_large")


async def _receive(request: Request, body: Body) -> None:
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body.add(message.get("body", b""))
        if not message.get("more_body", False):
            return


def _counted(size: int) -> int:
    return size if size > SMALL else 0
