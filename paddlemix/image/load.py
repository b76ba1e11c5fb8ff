"""Load an image from a path, a URL, bytes or an array, upright and in RGB. Knows nothing about models."""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .decode import MAX_PIXELS, decode, read_stored_size, to_rgb
from .errors import ImageError, MissingImageError
from .fetch import DEFAULT_LIMITS, FetchLimits, cache_path, download, store

SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
# Of a data: URI, in characters. Unescaping (%41) takes a second for some MB.
MAX_PAYLOAD, MAX_ESCAPED = 96 << 20, 8 << 20
ESCAPED_PART = 1 << 16  # characters that are unescaped at a time
MAX_NAME = 200  # characters of a source in a message


def load_image(
    source: Any,
    *,
    folder: str | os.PathLike[str] | None = None,
    cache_folder: str | os.PathLike[str] | None = None,
    allow_path: bool = True,
    allow_url: bool = True,
    max_pixels: int = MAX_PIXELS,
    limits: FetchLimits = DEFAULT_LIMITS,
) -> Image.Image:
    """Return an image in mode RGB, turned upright by its EXIF orientation, transparent parts on white.

    source: a path (relative to `folder`), an http(s) URL, a `data:` URI, the bytes of a file, a PIL image or a NumPy
    array uint8 [height, width, 3]. Of an animation or a document the first frame is taken.
    Gray of more than 8 bits: values up to 255 are taken as 8 bits, up to 4095 as 12, up to 65535 as 16, of which the
    upper 8 stay. A depth that the file states (TIFF of 12 bits, the maxval of PGM) takes precedence. Values below 0 or
    above 65535, floating point, and 16-bit colors whose upper 8 bits are all 0 are refused.
    cache_folder: where downloads are kept (see `fetch.cache_path`). allow_path, allow_url: False refuses that kind, for
    callers that take sources from strangers. max_pixels: limit on width * height, checked before decoding. Pillow's
    own limit (the default) cannot be exceeded. limits: of a download. Raises ImageError that names the source.
    """
    name = describe(source)
    if isinstance(source, Image.Image):
        return to_rgb(source, name, max_pixels)
    if isinstance(source, np.ndarray):
        return to_rgb(_from_array(source, name), name, max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode(io.BytesIO(source), name, max_pixels)
    if isinstance(source, str) and source[:5].lower() == "data:":
        return decode(io.BytesIO(_data_uri_bytes(source, name)), name, max_pixels)
    if isinstance(source, str) and (scheme := SCHEME.match(source)):
        _check_scheme(scheme.group(1), name, allow_url)
        return _load_url(source, name, cache_path(source, cache_folder), max_pixels, limits)
    if isinstance(source, (str, os.PathLike)):
        if not allow_path:
            raise ImageError(f"{name} is a path, and paths are not allowed here: send a URL, a data: URI or the bytes")
        # NOTE: pathlib's expanduser raises for a user that does not exist.
        try:
            return _load_file(Path(folder or "") / os.path.expanduser(source), source, max_pixels)
        except MissingImageError as error:
            raise MissingImageError(f"{error}: check the path{' and the image folder' if folder else ''}") from error
    raise ImageError(
        f"cannot read an image from {name}: expected a path, an http(s) URL, a data: URI, bytes, a PIL image or a "
        "NumPy array"
    )


def listed(images: Any) -> list[Any]:
    """Return images as a list: a single one, in any form that `load_image` takes, as a list of it."""
    single = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)
    return [images] if isinstance(images, single) else list(images)


def describe(source: Any, max_length: int = MAX_NAME) -> str:
    """Return a short name of a source for messages."""
    if isinstance(source, (str, os.PathLike)):
        text = os.fsdecode(os.fspath(source))
        return repr(text) if len(text) <= max_length else f"{text[:60]!r}... ({len(text)} characters)"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>"
    return f"<{type(source).__module__}.{type(source).__name__}>"


def _load_file(path: Path, source: str | os.PathLike[str], max_pixels: int) -> Image.Image:
    """Load a file, with its resolved path in every message."""
    name = describe(source)
    if not name.strip("'\" "):
        raise ImageError("the path of an image is empty")
    try:
        path = path.resolve()
        name = describe(path)
        if path.is_dir():
            raise ImageError(f"{name} is a folder: expected the file of one image")
        if path.exists() and not path.is_file():
            raise ImageError(f"{name} is not a regular file: expected the file of one image")
        if not path.stat().st_size:  # some of the kernel's files of this size block when read
            raise ImageError(f"{name} is empty: it has 0 bytes")
        with path.open("rb") as file:
            return decode(file, name, max_pixels)
    except FileNotFoundError as error:
        raise MissingImageError(f"there is no image {name}") from error
    except ImageError:
        raise
    except OSError as error:  # no permission, a name too long
        raise ImageError(f"cannot open {name}: {error.strerror or error}") from error
    except (ValueError, RuntimeError) as error:  # a null byte, a loop of links
        raise ImageError(f"cannot open {name}: {error}") from error


def _load_url(url: str, name: str, cached: Path, max_pixels: int, limits: FetchLimits) -> Image.Image:
    """Load a URL from the cache or the network. Only a valid image is kept."""
    if cached.is_file():
        try:
            return _load_file(cached, cached, max_pixels)
        except ImageError as error:
            raise ImageError(f"{name} is cached, but {error}; delete that file to download it again") from error
    data = download(url, limits)
    image = decode(io.BytesIO(data), name, max_pixels)
    store(cached, data)
    return image


def _check_scheme(scheme: str, name: str, allow_url: bool) -> None:
    """Raise ImageError for a scheme other than http and https, or if URLs are not allowed."""
    if scheme.lower() not in ("http", "https"):
        raise ImageError(f"{name} has the scheme {scheme!r}: expected http, https, a data: URI or a plain path")
    if not allow_url:
        raise ImageError(f"{name} is a URL, and URLs are not allowed here: send a data: URI or the bytes")


def _data_uri_bytes(uri: str, name: str) -> bytes:
    """Return the payload of a `data:[type][;base64],payload` URI (RFC 2397)."""
    header, comma, payload = uri[5:].partition(",")
    if not comma:
        raise ImageError(f"{name} is not a data: URI: expected 'data:image/...;base64,' and the payload")
    limit = MAX_ESCAPED if "%" in payload else MAX_PAYLOAD
    if len(payload) > limit:
        raise ImageError(f"{name} is larger than the limit of {limit} characters: name a file instead")
    try:
        payload_bytes = b"".join(map(urllib.parse.unquote_to_bytes, _parts(payload)))
    except UnicodeEncodeError as error:
        raise ImageError(f"{name} has half of a surrogate pair, which is not a character") from error
    if not header.lower().rstrip().endswith(";base64"):
        return payload_bytes
    try:
        return base64.b64decode(b"".join(payload_bytes.split()), validate=True)
    except binascii.Error as error:
        raise ImageError(f"{name} has a broken base64 payload: {error}") from error


def _parts(payload: str) -> Iterator[str]:
    """Yield a payload in parts that do not split an escape (%41): urllib keeps objects for each escape of its input."""
    start = 0
    while start < len(payload):
        end = start + ESCAPED_PART
        cut = payload.rfind("%", end - 2, end) if end < len(payload) else -1
        end = end if cut < 0 else cut
        yield payload[start:end]
        start = end


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    """Return a NumPy image as a PIL image."""
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(f"{name} is {array.dtype} {list(array.shape)}: expected uint8 [height, width, 3] in RGB")
    return Image.fromarray(np.ascontiguousarray(array))


def read_image_size(source: Any) -> tuple[int, int]:
    """Return the (width, height) px that `load_image(source)` has. Of a file only the header is read.

    A file that is cut off later is not noticed. Raises ImageError as `load_image` does.
    """
    is_file = isinstance(source, str | os.PathLike) and not (isinstance(source, str) and is_address(source))
    if not (is_file and os.path.isfile(source) and os.path.getsize(source)):  # opening a pipe would wait forever
        return load_image(source).size
    try:
        return read_stored_size(source)
    except Exception:  # Pillow's readers raise anything for a broken header
        return load_image(source).size  # reports what is wrong


def is_address(source: str) -> bool:
    """Return whether a source is a URL or a data: URI, not a path."""
    return source[:5].lower() == "data:" or SCHEME.match(source) is not None
