"""Download the bytes at a URL, within limits, and keep them on disk. Knows nothing about pictures."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ImageError

if TYPE_CHECKING:
    from requests import Response

CHUNK_BYTES = 1 << 16
MAX_REDIRECTS = 5
# NOTE: identity, so that Content-Length counts the bytes we get; some hosts refuse the default agent of requests.
HEADERS = {"User-Agent": "paddlemix (image loader)", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class FetchLimits:
    """How long and how large a download may be.

    connect_seconds, read_seconds: one connection, one wait for bytes. total_seconds: all attempts with their pauses,
    checked whenever bytes arrive. max_bytes: of one body. max_retries: after broken connections, 5xx and short
    bodies. retry_seconds: pause before the first retry, doubled for each further one.
    """

    connect_seconds: float = 10.0
    read_seconds: float = 20.0
    total_seconds: float = 60.0
    max_bytes: int = 64 << 20
    max_retries: int = 2
    retry_seconds: float = 0.5


DEFAULT_LIMITS = FetchLimits()


class _TemporaryFailureError(Exception):
    """A failure that a second attempt may not have."""


def cache_path(url: str, cache_folder: str | os.PathLike[str] | None = None) -> Path:
    """Return where the bytes of a URL are kept.

    Under `cache_folder`, else $PADDLEMIX_CACHE/images, else ~/.cache/paddlemix/images; named by the URL's sha256.
    """
    if cache_folder is None:
        cache_folder = Path(os.environ.get("PADDLEMIX_CACHE") or "~/.cache/paddlemix").expanduser() / "images"
    key = hashlib.sha256(url.encode()).hexdigest()
    return Path(cache_folder) / key[:2] / key


def store(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it or none; raise ImageError when the folder takes no files."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name[:8], suffix=".tmp", delete=False) as file:
            try:
                file.write(data)
                file.close()
                os.replace(file.name, path)
            except OSError:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise ImageError(
            f"cannot write to the image cache {path.parent}: {error}; set PADDLEMIX_CACHE to a folder with free space "
            "that you may write to"
        ) from error


def download(url: str, limits: FetchLimits = DEFAULT_LIMITS) -> bytes:
    """Return the body at an http(s) URL; raise ImageError, naming the URL, when it cannot be had within the limits."""
    deadline = time.monotonic() + limits.total_seconds
    for attempt in range(limits.max_retries + 1):
        if attempt:
            time.sleep(min(limits.retry_seconds * 2 ** (attempt - 1), max(0.0, deadline - time.monotonic())))
        try:
            return _download_once(url, limits, deadline)
        except _TemporaryFailureError as error:
            failure = error
    raise ImageError(f"cannot download {url}: {failure} (gave up after {limits.max_retries + 1} attempts)") from failure


def _download_once(url: str, limits: FetchLimits, deadline: float) -> bytes:
    """Make one attempt; raise _TemporaryFailureError where another may help, else ImageError."""
    import requests  # here, because a loader of local files should not pay for it
    import urllib3

    left = max(0.001, deadline - time.monotonic())
    timeout = (min(limits.connect_seconds, left), min(limits.read_seconds, left))
    try:
        with requests.Session() as session:
            session.max_redirects = MAX_REDIRECTS
            # A redirect to any other scheme fails: a session has adapters for http and https only.
            with session.get(url, stream=True, timeout=timeout, headers=HEADERS) as response:
                _check_status(url, response)
                return _read_body(url, response, limits, deadline)
    except (
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        urllib3.exceptions.HTTPError,  # what the raw stream raises
    ) as error:
        _check_deadline(url, limits, deadline)
        raise _TemporaryFailureError(f"{type(error).__name__}: {error}") from error
    except (requests.exceptions.RequestException, UnicodeError) as error:  # a bad address or scheme, endless redirects
        raise ImageError(f"cannot download {url}: {error}") from error


def _check_status(url: str, response: Response) -> None:
    """Let only a plain success pass."""
    status = f"HTTP status {response.status_code} {response.reason or ''}".rstrip()
    if response.status_code >= 500:
        raise _TemporaryFailureError(status)
    if response.status_code != 200:
        raise ImageError(f"cannot download {url}: {status}; check the address")


def _read_body(url: str, response: Response, limits: FetchLimits, deadline: float) -> bytes:
    """Return the whole body, watching its size and the clock."""
    expected = int(length) if (length := response.headers.get("Content-Length", "")).isdigit() else None
    if "Content-Encoding" in response.headers:
        expected = None  # it counts compressed bytes
    # NOTE: read1 returns what has arrived. `read` waits for a full chunk, so that a server that sends one byte now and
    # then would never let us look at the clock. urllib3 before 2.2 has no read1: small chunks are the next best.
    if hasattr(response.raw, "read1"):
        read, chunk_bytes = response.raw.read1, CHUNK_BYTES
    else:
        read, chunk_bytes = response.raw.read, 1024
    body = bytearray()
    while max(len(body), expected or 0) <= limits.max_bytes:
        _check_deadline(url, limits, deadline)
        chunk = read(chunk_bytes, decode_content=True)
        if not chunk:
            break
        body += chunk
    else:
        raise ImageError(f"cannot download {url}: it is larger than the limit of {limits.max_bytes} bytes")
    if expected is not None and len(body) < expected:  # urllib3 2 raises by itself, 1.26 does not
        raise _TemporaryFailureError(f"short body: {len(body)} bytes of {expected}")
    return bytes(body)


def _check_deadline(url: str, limits: FetchLimits, deadline: float) -> None:
    """Raise ImageError once the total time is used up."""
    if time.monotonic() > deadline:
        raise ImageError(f"cannot download {url}: it took longer than the limit of {limits.total_seconds} s")
