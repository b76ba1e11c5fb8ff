"""Download the bytes at a URL, within limits, and keep them on disk. Knows nothing about images."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ..web.clock import ExchangeClock
from ..web.request import OutOfTimeError, PassingWebError, WebError, printable, read_body, request
from .errors import ImageError

HEADERS = {"User-Agent": "paddlemix (image loader)"}  # some hosts refuse the default agent of requests


@dataclass(frozen=True)
class FetchLimits:
    """How long and how large a download may be.

    connect_seconds, read_seconds: to open a connection, to wait for bytes. total_seconds: all attempts with their
    pauses, whatever the server does. max_bytes: of one body. max_retries: after broken connections, 5xx and short
    bodies. retry_seconds: pause before the first retry, doubled for each further one.
    """

    connect_seconds: float = 10.0
    read_seconds: float = 20.0
    total_seconds: float = 60.0
    max_bytes: int = 64 << 20
    max_retries: int = 2
    retry_seconds: float = 0.5


DEFAULT_LIMITS = FetchLimits()


def cache_path(url: str, cache_folder: str | os.PathLike[str] | None = None) -> Path:
    """Return the path in the cache for the bytes of a URL.

    Under `cache_folder`, else $PADDLEMIX_CACHE/images, else ~/.cache/paddlemix/images; named by the URL's sha256.
    """
    if cache_folder is None:
        cache = Path(os.environ.get("PADDLEMIX_CACHE") or "~/.cache/paddlemix")
        try:
            cache_folder = cache.expanduser() / "images"
        except RuntimeError as error:
            raise ImageError(f"PADDLEMIX_CACHE is {str(cache)!r}, but there is no such user") from error
    key = hashlib.sha256(url.encode(errors="surrogatepass")).hexdigest()  # `download` refuses half a surrogate pair
    return Path(cache_folder) / key[:2] / key


def store(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it or none. Raises ImageError if it cannot be written."""
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
    """Return the body at an http(s) URL. Raises ImageError that names the URL."""
    timeout = (limits.connect_seconds, limits.read_seconds)
    deadline = time.monotonic() + limits.total_seconds
    for attempt in range(limits.max_retries + 1):
        if attempt:
            time.sleep(min(limits.retry_seconds * 2 ** (attempt - 1), max(0.0, deadline - time.monotonic())))
        try:
            with request("GET", url, headers=HEADERS, timeout=timeout, clock=ExchangeClock(deadline)) as response:
                return read_body(response, limits.max_bytes)
        except PassingWebError as error:
            cause, reason = error, f"{error} (gave up after {limits.max_retries + 1} attempts)"
        except OutOfTimeError as error:
            cause, reason = error, f"it took longer than the limit of {limits.total_seconds} s"
            break
        except WebError as error:
            cause, reason = error, f"{error}; check the address" if error.status else str(error)
            break
    raise ImageError(f"cannot download {printable(url)}: {reason}") from cause
