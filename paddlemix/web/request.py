"""Ask a web server for bytes; tell failures that may pass from lasting ones. Knows neither files nor pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..terminal.visible import visible_line
from .clock import ExchangeClock

if TYPE_CHECKING:
    from requests import Response, Session

CHUNK_BYTES = 1 << 16
MAX_REDIRECTS = 5
TOO_MANY_REQUESTS = 429
MAX_DIGITS = 18  # of a length that somebody could mean
MAX_SHOWN = 200  # characters of an address in a message


class WebError(Exception):
    """A request that failed; status: what the server answered, None where it did not."""

    def __init__(self, text: str, status: int | None = None):
        super().__init__(text)
        self.status = status


class PassingWebError(WebError):
    """A failure that a second attempt may not have."""


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
    accepted: tuple[int, ...] = (200,),
) -> Iterator[Response]:
    """Yield the answer to one request, its body not yet read. timeout: seconds to connect, seconds to wait for bytes.

    clock: of the whole exchange, redirects and the body included; a new one for each request.
    Also failures of reading the body inside the `with` block come as WebError, PassingWebError or OutOfTimeError.
    """
    import requests  # here, because whoever downloads nothing should not pay for it
    import urllib3

    from .session import make_session

    # NOTE: identity, so that Content-Length counts the bytes we get.
    headers = {"Accept-Encoding": "identity", **headers}
    try:
        with clock, make_session(clock, MAX_REDIRECTS) as session:
            with _send(session, method, url, timeout=timeout, headers=headers) as response:
                _check_clock(clock)  # a connection that ends looks like the end of the headers
                _check_status(response, accepted)
                yield response
            _check_clock(clock)  # and like the end of the body
    except urllib3.exceptions.LocationValueError as error:  # an address that is none, in a redirect too
        raise WebError(printable(str(error))) from error
    except (
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        urllib3.exceptions.HTTPError,  # what the raw stream raises
    ) as error:
        _check_clock(clock)
        raise PassingWebError(f"{type(error).__name__}: {printable(str(_reason(error)))}") from error
    # A bad address or scheme, endless redirects. A header that cannot be read gives a plain ValueError.
    except (requests.exceptions.RequestException, ValueError) as error:
        _check_clock(clock)
        raise WebError(printable(str(error))) from error


def _send(session: Session, method: str, url: str, *, timeout: tuple[float, float], headers: dict) -> Response:
    import requests

    try:
        return session.request(method, url, stream=True, timeout=timeout, headers=headers, allow_redirects=True)
    except requests.exceptions.RequestException:  # before OSError, which it is too
        raise
    except OSError as error:  # the file of certificates that the environment names is not there
        raise WebError(printable(str(error))) from error


def _check_clock(clock: ExchangeClock) -> None:
    if clock.has_run_out:
        raise OutOfTimeError("the time was up")


def printable(text: str) -> str:
    """Return a text for a message: what a terminal would obey is made visible, and what is long is cut."""
    text = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} characters)"
    return visible_line(text)


def _reason(error: Exception) -> object:
    """Return what lies behind an error that says first which pool of connections gave up."""
    cause = error.args[0] if error.args else error
    return getattr(cause, "reason", None) or error


def _check_status(response: Response, accepted: tuple[int, ...]) -> None:
    if response.status_code not in accepted:
        may_pass = response.status_code >= 500 or response.status_code == TOO_MANY_REQUESTS
        status = printable(f"HTTP status {response.status_code} {response.reason or ''}".rstrip())
        raise (PassingWebError if may_pass else WebError)(status, response.status_code)


def num_expected_bytes(response: Response) -> int | None:
    """Return the length of the body that `chunks` gives, None where the server does not tell."""
    if "Content-Encoding" in response.headers:
        return None  # Content-Length counts compressed bytes
    length = response.headers.get("Content-Length", "").strip()
    if not (length.isascii() and length.isdigit()):  # "²" is a digit as well
        return None
    return int(length[-MAX_DIGITS:]) if not length[:-MAX_DIGITS].strip("0") else 10**MAX_DIGITS


def chunks(response: Response) -> Iterator[bytes]:
    """Yield the body as it arrives; what is compressed comes unpacked. A body can end early without an error."""
    # NOTE: read1 returns what has arrived. `read` waits for a full chunk, so that a server that sends one byte now and
    # then would never let us look at the clock. urllib3 before 2.2 has no read1: small chunks are the next best.
    if hasattr(response.raw, "read1"):
        read, chunk_bytes = response.raw.read1, CHUNK_BYTES
    else:
        read, chunk_bytes = response.raw.read, 1024
    while chunk := read(chunk_bytes, decode_content=True):
        yield chunk
