"""Read a picture from wherever somebody keeps it, upright and in RGB. Knows nothing about models."""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from .depth import stated_depth, to_8_bits
from .errors import ImageError, MissingImageError
from .fetch import DEFAULT_LIMITS, FetchLimits, cache_path, download, store

# As many as Pillow itself opens; a picture takes 3 to 4 bytes a pixel in memory.
MAX_PIXELS = 178_956_970
# Photographs and drawings only: some of Pillow's other readers start programs (EPS: Ghostscript).
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
# Of a data: URI, in characters. What is written as %41 takes a second for some MB.
MAX_PAYLOAD, MAX_ESCAPED = 96 << 20, 8 << 20
ESCAPED_PART = 1 << 16  # characters that are unescaped at a time
MAX_NAME = 200  # characters of a source in a message
ORIENTATION_TAG = 0x0112
# EXIF 2.3, section 4.6.4 A: orientation value -> what turns the stored picture upright
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
    """Return a picture in mode RGB, turned upright by its EXIF orientation, transparent parts on white.

    source: a path (relative ones start at `folder`), an http(s) URL, a `data:` URI, the bytes of a file, a PIL image or
    a NumPy array uint8 [height, width, 3]. Of a film or a document the first frame is taken.
    Gray of more than 8 bits: values up to 255 are taken as 8 bits, up to 4095 as 12, up to 65535 as 16, of which the
    upper 8 stay; a depth that the file states (TIFF of 12 bits, the maxval of PGM) comes before that. Values below 0 or
    above 65535, floating point, and 16 bit colours whose upper 8 are all 0 are refused.
    cache_folder: where downloads are kept (see `fetch.cache_path`). allow_path, allow_url: False refuses that kind, for
    callers that take sources from strangers. max_pixels: limit on width * height, checked before decoding; Pillow's
    own (the default) cannot be exceeded. limits: of a download. Raises ImageError, naming the source.
    """
    name = describe(source)
    if isinstance(source, Image.Image):
        return _finish(source, name, max_pixels)
    if isinstance(source, np.ndarray):
        return _finish(_from_array(source, name), name, max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), name, max_pixels)
    if isinstance(source, str) and source[:5].lower() == "data:":
        return _decode(io.BytesIO(_data_uri_bytes(source, name)), name, max_pixels)
    if isinstance(source, str) and (scheme := SCHEME.match(source)):
        _check_scheme(scheme.group(1), name, allow_url)
        return _load_url(source, name, cache_path(source, cache_folder), max_pixels, limits)
    if isinstance(source, (str, os.PathLike)):
        if not allow_path:
            raise ImageError(f"{name} is a path, and paths are not allowed here: send a URL, a data: URI or the bytes")
        # NOTE: pathlib's expanduser raises for a user that does not exist.
        return _load_file(Path(folder or "") / os.path.expanduser(source), source, max_pixels)
    raise ImageError(
        f"cannot read a picture from {name}: expected a path, an http(s) URL, a data: URI, bytes, a PIL image or a "
        "NumPy array"
    )


def describe(source: Any, max_length: int = MAX_NAME) -> str:
    """Return a short name of a source for messages."""
    if isinstance(source, (str, os.PathLike)):
        text = os.fsdecode(os.fspath(source))
        return repr(text) if len(text) <= max_length else f"{text[:60]!r}... ({len(text)} characters)"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>"
    return f"<{type(source).__module__}.{type(source).__name__}>"


def _load_file(path: Path, source: str | os.PathLike[str], max_pixels: int) -> Image.Image:
    """Read a file, with its resolved path in every message."""
    name = describe(source)
    if not name.strip("'\" "):
        raise ImageError("the path of a picture is empty")
    try:
        path = path.resolve()
        name = describe(path)
        if path.is_dir():
            raise ImageError(f"{name} is a folder: expected the file of one picture")
        if path.exists() and not path.is_file():
            raise ImageError(f"{name} is not a regular file: expected the file of one picture")
        if not path.stat().st_size:  # nor is it opened: what the kernel shows as such a file may never give a byte
            raise ImageError(f"{name} is empty: it has 0 bytes")
        with path.open("rb") as file:
            return _decode(file, name, max_pixels)
    except FileNotFoundError as error:
        raise MissingImageError(f"there is no picture {name}: check the path and the image folder") from error
    except ImageError:
        raise
    except OSError as error:  # no permission, a name too long
        raise ImageError(f"cannot open {name}: {error.strerror or error}") from error
    except (ValueError, RuntimeError) as error:  # a null byte, a loop of links
        raise ImageError(f"cannot open {name}: {error}") from error


def _load_url(url: str, name: str, cached: Path, max_pixels: int, limits: FetchLimits) -> Image.Image:
    """Read a URL from the cache or the network; only what proves to be a picture is kept."""
    if cached.is_file():
        try:
            return _load_file(cached, cached, max_pixels)
        except ImageError as error:
            raise ImageError(f"{name} is kept on disk, but {error}; delete that file to download it again") from error
    data = download(url, limits)
    image = _decode(io.BytesIO(data), name, max_pixels)
    store(cached, data)
    return image


def _check_scheme(scheme: str, name: str, allow_url: bool) -> None:
    """Let only http and https pass, and those only if URLs are allowed."""
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
        raise ImageError(f"{name} has half of a surrogate pair, which is no character") from error
    if not header.lower().rstrip().endswith(";base64"):
        return payload_bytes
    try:
        return base64.b64decode(b"".join(payload_bytes.split()), validate=True)
    except binascii.Error as error:
        raise ImageError(f"{name} has a broken base64 payload: {error}") from error


def _parts(payload: str) -> Iterator[str]:
    """Yield a text in parts that cut no escape such as %41: urllib holds objects for each escape of a text."""
    start = 0
    while start < len(payload):
        end = start + ESCAPED_PART
        cut = payload.rfind("%", end - 2, end) if end < len(payload) else -1
        end = end if cut < 0 else cut
        yield payload[start:end]
        start = end


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    """Wrap a NumPy picture."""
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(f"{name} is {array.dtype} {list(array.shape)}: expected uint8 [height, width, 3] in RGB")
    return Image.fromarray(np.ascontiguousarray(array))


def _decode(file: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    """Decode the file of a picture."""
    start = file.read(16)
    if not start:
        raise ImageError(f"{name} is empty: it has 0 bytes")
    file.seek(0)
    Image.init()
    try:
        image = Image.open(file, formats=[known for known in FORMATS if known in Image.OPEN])
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name} is not a picture: it starts with {start!r}, expected {', '.join(FORMATS)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} has too many pixels: {error}") from error
    except Exception as error:  # Pillow's readers raise whatever a broken header leads them to
        raise ImageError(f"{name} is broken: {type(error).__name__}: {error}") from error
    return _finish(image, name, max_pixels)


def _finish(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    """Load the pixels, turn them upright and convert them to RGB."""
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels: it is {width}x{height}")
    if width * height > max_pixels:
        raise ImageError(f"{name} has too many pixels: {width}x{height}, the limit is {max_pixels} in all")
    try:
        depth = stated_depth(image)
        image.load()
        return _to_rgb(to_8_bits(_turn_upright(image), depth, name), name)
    except ImageError:
        raise
    except Exception as error:  # as in _decode: truncated and damaged data
        raise ImageError(f"{name} is broken or cut off: {type(error).__name__}: {error}") from error


def _turn_upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation."""
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # an unreadable EXIF block states no orientation; the pixels are fine
        orientation = 1
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert any mode of 8 bits to RGB, transparent parts on white."""
    if image.mode == "F":
        raise ImageError(f"{name} has floating point pixels, whose range nobody knows: save it with 8 bits a channel")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


SIDEWAYS = {
    tag
    for tag, turn in UPRIGHT.items()
    if turn
    in (
        Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
    )
}


def picture_size(source: Any) -> tuple[int, int]:
    """Return the (width, height) px that `load_image(source)` has. Of a file only the head is read.

    So a file that breaks off later is not noticed. Raises ImageError as `load_image`.
    """
    is_file = isinstance(source, str | os.PathLike) and not (isinstance(source, str) and is_address(source))
    if not (is_file and os.path.isfile(source) and os.path.getsize(source)):  # opening a pipe would wait for ever
        return load_image(source).size
    Image.init()
    try:
        with Image.open(source, formats=[known for known in FORMATS if known in Image.OPEN]) as image:
            width, height = image.size
            return (height, width) if image.getexif().get(ORIENTATION_TAG) in SIDEWAYS else (width, height)
    except Exception:  # Pillow's readers raise whatever a broken head leads them to
        return load_image(source).size  # which says what is wrong


def is_address(source: str) -> bool:
    """Tell a URL or a data: URI from a path."""
    return source[:5].lower() == "data:" or SCHEME.match(source) is not None
