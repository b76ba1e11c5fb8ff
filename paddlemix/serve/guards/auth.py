"""Who may use /v1: the holders of a key."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from fastapi import Request

from ..errors import ApiError
from ..serving import serving_of


async def check_key(request: Request) -> None:
    """Raise ApiError 401 unless the request has one of the server's keys, if it has any."""
    serving = serving_of(request)
    if serving.settings.api_keys:
        _check(request, serving.settings.api_keys)


def _check(request: Request, keys: Sequence[str]) -> None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise _unauthorized("this server needs a key: send the header Authorization: Bearer KEY")
    if not is_known(key.strip(), keys):
        raise _unauthorized("the key is not one of this server's: check it, or ask the owner of the server for one")


def is_known(key: str, keys: Sequence[str]) -> bool:
    """Return whether a key is among others, in a time that tells nothing about them."""
    digest = _digest(key)
    matches = [hmac.compare_digest(digest, _digest(known)) for known in keys]  # all of them, not up to the first
    return any(matches)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
