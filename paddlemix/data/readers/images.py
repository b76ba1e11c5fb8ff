"""Read the images of a row or a part: paths, URLs and data URIs. No image is opened."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterator
from typing import Any

from ...conversation.messages import check_unicode
from ...image.load import SCHEME
from .fields import show
from .keys import IMAGE, IMAGE_KEYS, Stated, stated_keys

MAX_PATH = 4096  # bytes, on Linux (PATH_MAX in linux/limits.h); no other system allows more


def row_images(row: dict) -> list[str]:
    """Return the images of a row, one or a list under one of IMAGE_KEYS; none if absent, null or empty."""
    stated = stated_keys(row, IMAGE_KEYS)
    if len(stated) > 1:
        raise ValueError(f"the row has both {stated[0]!r} and {stated[1]!r}: expected one of them")
    if not stated:
        return []
    value = row[stated[0]]
    values = value if isinstance(value, list) else [value]
    return [image_source(each, repr(stated[0])) for each in values]


def image_objects(row: dict) -> Iterator[Stated]:
    """Yield images that are objects with the rules of their keys, see `keys.unused_keys`."""
    for key in stated_keys(row, IMAGE_KEYS):
        values = row[key] if isinstance(row[key], list) else [row[key]]
        yield from ((repr(key), value, IMAGE, "an image") for value in values if isinstance(value, dict))


def image_source(value: Any, owner: str) -> str:
    """Return the path, URL or data URI of an image: a string, or an object with one under "url", "path" or "bytes"."""
    if isinstance(value, dict):
        value = _from_object(value, owner)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{owner} must be a path, URL or data URI, or a list of them; found {show(value)}")
    check_unicode(value, owner)
    if "\0" in value:
        raise ValueError(f"{owner} has a null byte, which no path or URL can have; found {show(value)}")
    if SCHEME.match(value):
        _check_url(value, owner)
    elif value[:5].lower() != "data:":
        _check_path(value, owner)
    return value


def _from_object(value: dict, owner: str) -> Any:
    """Return the source that an object names. Bytes (in base64) have priority over a path, as in `datasets`."""
    content = value.get("bytes")
    if content is not None:
        if not isinstance(content, str) or not content.strip():
            raise ValueError(f"{owner}: 'bytes' must be the bytes of a file in base64, found {show(content)}")
        return content if content[:5].lower() == "data:" else f"data:;base64,{content}"
    url, path = value.get("url"), value.get("path")
    if url and path and url != path:
        raise ValueError(f"{owner} has 'url' and 'path', which differ: expected one of them")
    return url or path or value


def _check_path(path: str, owner: str) -> None:
    if len(path.encode()) >= MAX_PATH:
        raise ValueError(f"{owner} is a path of {len(path)} characters, too long for a path; found {show(path)}")
    if path.startswith("~") and os.path.expanduser(path) == path:
        raise ValueError(
            f"{owner} starts with the home folder of an unknown user; found {show(path)}; for a folder of that "
            "name write './~...'"
        )


def _check_url(url: str, owner: str) -> None:
    try:
        urllib.parse.urlsplit(url).port  # noqa: B018  raises for a port that is not a number
    except ValueError as error:
        raise ValueError(f"{owner} is not a URL ({error}); found {show(url)}") from None
