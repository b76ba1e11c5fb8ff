"""The bytes in a `data:` URI (RFC 2397), as strict as needed and as lenient as browsers are."""

from __future__ import annotations

import base64
import binascii
import urllib.parse

from ..errors import ApiError

MAX_ESCAPED = 1 << 20  # characters of a payload with escapes (%41), which are slow to decode


def is_data_uri(url: str) -> bool:
    """Return whether a URL has its data in itself."""
    return url[:5].lower() == "data:"


def data_of(uri: str, param: str) -> bytes:
    """Return the bytes of a data URI. Line breaks and missing padding are accepted. Raises ApiError."""
    header, comma, payload = uri[5:].partition(",")
    if not comma:
        raise _invalid(param, "is a data: URI without a comma: expected data:image/png;base64, and the bytes in base64")
    is_base64 = header.rstrip().lower().endswith(";base64")
    if "%" in payload or not is_base64:
        if len(payload) > MAX_ESCAPED:
            raise _invalid(param, f"has more than {MAX_ESCAPED} characters with escapes: send plain base64")
        data = urllib.parse.unquote_to_bytes(payload.encode("utf-8", "surrogatepass"))
    else:
        data = payload.encode("utf-8", "surrogatepass")
    return _decoded(data, param) if is_base64 else _nonempty(data, param)


def _decoded(payload: bytes, param: str) -> bytes:
    digits = b"".join(payload.split()).rstrip(b"=")
    try:
        return _nonempty(base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True), param)
    except binascii.Error as error:
        raise _invalid(param, f"is not valid base64: {error}") from None


def _nonempty(data: bytes, param: str) -> bytes:
    if not data:
        raise _invalid(param, "has no data")
    return data


def _invalid(param: str, text: str) -> ApiError:
    return ApiError(400, f"{param} {text}", param=param, code="invalid_image")
