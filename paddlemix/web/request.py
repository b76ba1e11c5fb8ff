"""Request bytes from a web server and classify failures as passing or lasting. Knows neither files nor images."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..terminal.visible import visible_line
from .clock import ExchangeClock

if TYPE_CHECKING:
    from requests import PreparedRequest, Response, Session

CHUNK_BYTES = 1 << 16
MAX_REDIRECTS = 5
TOO_MANY_REQUESTS = 429
MAX_DIGITS = 18  # of a plausible length
MAX_SHOWN = 200  # characters of an address in a message


class WebError(Exception):
    """A request that failed. status: of the answer, None without an answer."""

    def __init__(self, text: str, status: int | None = None):
        super().__init__(text)
        self.status = status


class PassingWebError(WebError):
    """A failure that may not happen again."""


class OutOfTimeError(WebError):
    """The clock of the exchange ran out."""


@contextmanager
def request(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    timeout: tuple[float, float],
    clock: ExchangeClock,
    accepted: Container[int] = (200,),
    body: bytes | None = None,
) -> Iterator[Response]:
    """Yield the response to one request, its body not yet read. timeout: seconds to connect, seconds to wait for bytes.

    clock: of the whole exchange, with redirects and the body; a new one for each request. body: what is sent; such a
    request is not redirected, because most redirects would send it as a GET without its body.
    Failures to read the body inside the `with` block are raised as WebError, PassingWebError or OutOfTimeError too.
    """
    import requests  # here, because most commands download nothing
    import urllib3

    from .session import make_session

    # NOTE: identity, so that Content-Length counts the bytes that arrive.
    headers = {"Accept-Encoding": "identity", **headers}
    try:
        with clock, make_session(clock, MAX_REDIRECTS) as session:
            with _send(session, method, url, timeout=timeout, headers=headers, body=body) as response:
                _check_clock(clock)  # the end of a connection looks like the end of the headers
                _check_status(response, accepted)
                yield response
            _check_clock(clock)  # or of the body
    except urllib3.exceptions.LocationValueError as error:  # an invalid address, also in a redirect
        raise WebError(printable(str(error))) from error
    except (
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        urllib3.exceptions.HTTPError,  # of the raw stream
    ) as error:
        _check_clock(clock)
        raise PassingWebError(f"{type(error).__name__}: {printable(str(_reason(error)))}") from error
    # A bad address or scheme, endless redirects. An unreadable header raises a plain ValueError.
    except (requests.exceptions.RequestException, ValueError) as error:
        _check_clock(clock)
        raise WebError(printable(str(error))) from error


def _send(
    session: Session, method: str, url: str, *, timeout: tuple[float, float], headers: dict, body: bytes | None
) -> Response:
    import requests

    # NOTE: requests replaces a header Authorization by what ~/.netrc has for the host, unless it is given an `auth`.
    auth = _unchanged if "Authorization" in headers else None
    redirects = body is None
    try:
        return session.request(
            method, url, data=body, stream=True, timeout=timeout, headers=headers, auth=auth, allow_redirects=redirects
        )
    except requests.exceptions.RequestException:  # a subclass of OSError
        raise
    except OSError as error:  # the environment names a certificate file that does not exist
        raise WebError(printable(str(error))) from error


def _unchanged(prepared: PreparedRequest) -> PreparedRequest:
    return prepared


def _check_clock(clock: ExchangeClock) -> None:
    if clock.has_run_out:
        raise OutOfTimeError("the time was up")


def printable(text: str) -> str:
    """Return a text for a message, cut if it is long, with control characters made visible."""
    text = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} characters)"
    return visible_line(text)


def _reason(error: Exception) -> object:
    """Return the reason inside an error that begins with the connection pool that gave up."""
    cause = error.args[0] if error.args else error
    return getattr(cause, "reason", None) or error


def _check_status(response: Response, accepted: Container[int]) -> None:
    if response.status_code not in accepted:
        may_pass = response.status_code >= 500 or response.status_code == TOO_MANY_REQUESTS
        status = printable(f"HTTP status {response.status_code} {response.reason or ''}".rstrip())
        raise (PassingWebError if may_pass else WebError)(status, response.status_code)


def num_expected_bytes(response: Response) -> int | None:
    """Return the length of the body that `chunks` yields, None if the server does not state it."""
    if "Content-Encoding" in response.headers:
        return None  # Content-Length counts compressed bytes
    length = response.headers.get("Content-Length", "").strip()
    if not (length.isascii() and length.isdigit()):  # "²" is a digit as well
        return None
    return int(length[-MAX_DIGITS:]) if not length[:-MAX_DIGITS].strip("0") else 10**MAX_DIGITS


def read_body(response: Response, max_bytes: int, name: str = "it") -> bytes:
    """Return the whole body. Raises WebError if it is larger than max_bytes, PassingWebError if it ends early."""
    expected = num_expected_bytes(response)
    too_large = WebError(f"{name} is larger than the limit of {max_bytes} bytes")
    if expected is not None and expected > max_bytes:
        raise too_large
    body = bytearray()
    for chunk in chunks(response):
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    if expected is not None and len(body) < expected:  # urllib3 2 raises by itself, 1.26 does not
        raise PassingWebError(f"short body: {len(body)} bytes of {expected}")
    return bytes(body)


def chunks(response: Response) -> Iterator[bytes]:
    """Yield the body as it arrives, decompressed. A body can end early without an error."""
    # NOTE: read1 returns the bytes that have arrived. `read` waits for a full chunk, so the clock would not be checked
    # while a server trickles. urllib3 before 2.2 has no read1; small chunks are the next best.
    if hasattr(response.raw, "read1"):
        read, chunk_bytes = response.raw.read1, CHUNK_BYTES
    else:
        read, chunk_bytes = response.raw.read, 1024
    while chunk := read(chunk_bytes, decode_content=True):
        yield chunk
