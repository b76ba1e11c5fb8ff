"""Which web pages may use the server: its own, and those that its owner allows.

A browser lets any page send requests to a server on its own machine, also to one that listens only there. Such a page
is known by its Origin. A page whose name has been pointed at this machine (DNS rebinding) has the right Origin for its
Host, so that a server without keys on a loopback address also checks under which name it is called.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from ..errors import ApiError
from ..settings import ServeSettings
from .access import KEY_HINT

LOCAL_NAMES = ("localhost", "ip6-localhost")


class OriginRules:
    """The rules of one server."""

    def __init__(self, settings: ServeSettings):
        self._origins = frozenset(origin.lower().rstrip("/") for origin in settings.origins)
        self._is_open = "*" in self._origins
        self._names = {settings.host.lower(), *(_host_of(urlsplit(origin).netloc) for origin in self._origins)}
        self._checks_host = not settings.api_keys and is_loopback(settings.host) and not self._is_open

    def check(self, host: str, origin: str | None) -> None:
        """Raise ApiError 403 for a request that another page sends.

        host, origin: its headers. Browsers always send a host, and some health checks do not.
        """
        name = _host_of(host)
        if self._checks_host and name and name not in self._names and not is_loopback(name):
            raise ApiError(
                403,
                f"this server is called under the name {name[:100]!r}, which is not its own: call it as localhost, or "
                f"have its owner start it with {KEY_HINT}, or with --allow-origins",
                code="host_refused",
            )
        if origin is None or self._is_open or origin.lower() in self._origins:
            return
        if urlsplit_safely(origin) != host.lower():
            raise ApiError(
                403,
                f"web pages of {origin[:100]!r} may not use this server: its owner can allow it with --allow-origins",
                code="origin_refused",
            )


def is_loopback(name: str) -> bool:
    """Return whether a name or an address is this machine's own, which no other machine reaches."""
    if name in LOCAL_NAMES or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def urlsplit_safely(origin: str) -> str | None:
    """Return host and port of an origin in lower case, None for one that cannot be read, as "null"."""
    try:
        return urlsplit(origin.lower()).netloc or None
    except ValueError:
        return None


def _host_of(netloc: str) -> str:
    """Return the host of HOST, HOST:PORT or [HOST]:PORT in lower case."""
    netloc = netloc.lower()
    if netloc.startswith("["):
        return netloc[1:].partition("]")[0]
    return netloc.partition(":")[0].rstrip(".")
