"""Fetch images by URL for a request, from allowed hosts and public addresses only. Knows nothing about images.

A server that fetches what a stranger names can be made to read from its own network (SSRF). Here each hop of redirects
is checked wholly: the host by the operator's rules, then all its addresses, and the connection goes to one of the
checked addresses without asking a name server again, so that a name that changes its answer (DNS rebinding) gains
nothing (`checked_pool`). Proxies of the environment, ~/.netrc and cookies are not used. Compressed answers are refused.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urljoin

import urllib3

from ...image.errors import EXPECTED
from ...terminal.sizes import plural
from ...terminal.visible import visible_line
from ...web.clock import ExchangeClock, in_thread
from ...web.request import printable
from ..errors import ApiError
from .addresses import Address, HostRule, Target, address_of, parse_rule, parse_url
from .checked_pool import checked_pool

REDIRECTS = (301, 302, 303, 307, 308)
CHUNK_BYTES = 1 << 16
HEADERS = {"User-Agent": "paddlemix (image loader)", "Accept": "image/*", "Accept-Encoding": "identity"}
# JPEG, PNG, GIF, BMP, TIFF (also BigTIFF), PPM, JPEG 2000.
MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAGIC += (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")
Resolver = Callable[[str, int], Sequence[str]]  # host and port to its addresses; raises OSError


@dataclass(frozen=True)
class FetchLimits:
    """How long and how large an image may be. total_seconds: all redirects and the body.

    max_concurrent: images that are fetched at a time, for all requests together; others wait for wait_seconds.
    """

    max_bytes: int = 20 << 20
    connect_seconds: float = 5.0
    read_seconds: float = 10.0  # for the next bytes
    total_seconds: float = 20.0
    max_redirects: int = 3
    max_concurrent: int = 8
    wait_seconds: float = 10.0


def looks_like_image(data: bytes) -> bool:
    """Return whether a file begins as one of an image format that is decoded here."""
    return data[:12].startswith(MAGIC) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP") or data[4:8] == b"ftyp"


class _Refused(Exception):
    """The rules forbid it. The text is for the client and names no address of the own network."""


class _Failed(Exception):
    """The other server did not send an image."""


def resolve(host: str, port: int) -> list[str]:
    """Return all addresses of a host from the system's resolver, its preferred ones first."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(entry[4][0] for entry in found))


class ImageFetcher:
    """Fetches images from the hosts of the given rules (see `addresses.HostRule`); from none without rules.

    Raises ValueError for a rule that cannot be read. resolver: another source of addresses, for tests.
    """

    def __init__(self, hosts: Sequence[str], limits: FetchLimits | None = None, resolver: Resolver = resolve):
        self.rules = tuple(parse_rule(host) for host in hosts)
        self.limits = limits or FetchLimits()
        self.resolver = resolver
        self._threads = ThreadPoolExecutor(self.limits.max_concurrent, thread_name_prefix="image-url")
        self._timeout = urllib3.Timeout(connect=self.limits.connect_seconds, read=self.limits.read_seconds)
        self._free = asyncio.Semaphore(self.limits.max_concurrent)

    async def fetch(self, url: str) -> bytes:
        """Return the bytes at a URL.

        Raises ApiError: 400 `image_url_refused` or `image_url_failed`, 503 `image_urls_busy` if others use all threads.
        A canceled call closes its connection.
        """
        await self._wait_for_turn()
        clock = ExchangeClock(time.monotonic() + self.limits.total_seconds)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._fetch, url, clock)
        except asyncio.CancelledError:
            clock.restart(0)
            raise
        except _Refused as error:
            raise ApiError(400, _message(url, error), param="messages", code="image_url_refused") from error
        except _Failed as error:
            raise ApiError(400, _message(url, error), param="messages", code="image_url_failed") from error
        finally:
            self._free.release()

    async def _wait_for_turn(self) -> None:
        try:
            await asyncio.wait_for(self._free.acquire(), self.limits.wait_seconds)
        except asyncio.TimeoutError:
            raise ApiError(
                503,
                f"the server is fetching {self.limits.max_concurrent} other images: try again, or send the image as a "
                "data: URI",
                param="messages",
                code="image_urls_busy",
                headers={"Retry-After": "5"},
            ) from None

    def close(self) -> None:
        """Let no new call start."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, url: str, clock: ExchangeClock) -> bytes:
        try:
            with clock:
                data = self._follow(url, clock)
            if clock.has_run_out:  # which looks like the end of a body or of headers
                raise TimeoutError
            if not looks_like_image(data):  # here, because the message of a decoder shows how a file begins
                sent = plural(len(data), "byte")
                raise _Failed(f"what its server sent ({sent}) is not an image: expected {EXPECTED}")
            return data
        except (OSError, urllib3.exceptions.HTTPError, ValueError) as error:
            if clock.has_run_out or not clock.seconds_left:
                raise _Failed(f"it took longer than the limit of {self.limits.total_seconds:g} s") from error
            raise _Failed(_reason(error)) from error

    def _follow(self, url: str, clock: ExchangeClock) -> bytes:
        for _ in range(self.limits.max_redirects + 1):
            target, rule = self._checked(url)
            addresses = self._addresses(target, rule, clock)
            result = self._get(target, addresses, clock)
            if isinstance(result, bytes):
                return result
            url = _joined(url, result)
        raise _Failed(f"it redirects more than {self.limits.max_redirects} times")

    def _checked(self, url: str) -> tuple[Target, HostRule]:
        if not self.rules:
            raise _Refused(
                "this server fetches no images: send the image as a data: URI (data:image/png;base64,...), or start "
                "the server with --allow-image-urls HOST"
            )
        try:
            target = parse_url(url)
        except ValueError as error:
            raise _Refused(str(error)) from error
        rule = next((rule for rule in self.rules if rule.covers(target)), None)
        if rule is None:
            raise _Refused(
                f"images from {target.origin} are not allowed here: send the image as a "
                f"data: URI, or start the server with --allow-image-urls {target.host}"
            )
        return target, rule

    def _addresses(self, target: Target, rule: HostRule, clock: ExchangeClock) -> list[Address]:
        """Return the addresses of a host. Raises _Refused unless a connection to each of them is allowed."""
        literal = address_of(target.host)
        found = [target.host] if literal else self._resolved(target, clock)
        addresses = [ip_address(text) for text in found]
        if not addresses:
            raise _Failed(f"{target.host} has no address")
        if not all(rule.permits(address) for address in addresses):
            hint = target.host if literal else f"{target.host}=NETWORK"
            raise _Refused(
                f"{target.host} has an address that is not public (to allow it, start the server with "
                f"--allow-image-urls {hint})"
            )
        return addresses

    def _resolved(self, target: Target, clock: ExchangeClock) -> Sequence[str]:
        future = in_thread(lambda: self.resolver(target.host, target.port))  # a name server may hang
        if not wait([future], clock.seconds_left).done:
            raise TimeoutError
        try:
            return future.result()
        except (OSError, UnicodeError) as error:
            raise _Failed(f"{target.host} has no address") from error

    def _get(self, target: Target, addresses: list[Address], clock: ExchangeClock) -> bytes | str:
        """Return the body of an answer, or to where it redirects."""
        with checked_pool(target, addresses, clock, self._timeout) as pool:
            response = pool.urlopen(
                "GET",
                target.path,
                headers=HEADERS,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
            )
            try:
                return self._read(response)
            finally:
                response.close()

    def _read(self, response: urllib3.BaseHTTPResponse) -> bytes | str:
        if response.status in REDIRECTS and response.headers.get("Location"):
            return response.headers["Location"]
        if response.status != 200:
            raise _Failed(f"the server answered with HTTP status {response.status}")
        if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise _Failed("the server sent it compressed, although it was asked not to")
        body = bytearray()
        # NOTE: `read` waits for a full chunk, so the clock would not be noticed while a server trickles.
        while chunk := response.read1(CHUNK_BYTES):
            body += chunk
            if len(body) > self.limits.max_bytes:
                raise _Failed(f"it is larger than the limit of {self.limits.max_bytes} bytes")
        return bytes(body)


def _joined(url: str, location: str) -> str:
    """Return the URL that a redirect names; `parse_url` checks it."""
    location = location.encode("latin-1", "replace").decode("utf-8", "replace")  # http.client read it as latin-1
    if "\\" in location or visible_line(location) != location:
        raise _Refused("it redirects to an address with a backslash or a control character")
    return urljoin(url, location)


def _reason(error: Exception) -> str:
    """Return what failed, without the text of the error, which may be the other server's or name an address."""
    if isinstance(error, urllib3.exceptions.ProtocolError) and isinstance(error.args[-1], Exception):
        error = error.args[-1]
    if isinstance(error, ssl.SSLError | urllib3.exceptions.SSLError):
        return "its certificate or its TLS is not accepted"
    if isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError):
        return "its server did not answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "its server accepts no connection"
    return f"the exchange with its server broke ({type(error).__name__})"


def _message(url: str, error: Exception) -> str:
    return f"cannot fetch the image {printable(url)}: {error}"
