"""Read a JSON object strictly. The caller names the text and the error to raise."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from .terminal.near_paths import did_you_mean
from .terminal.sizes import in_bytes

MAX_BYTES = 128 << 20  # of a file; parsed, it takes ten times as much memory


def read_object(path: str | Path, error: type[ValueError], what: str | None = None) -> dict[str, Any]:
    """Return the object in a UTF-8 file; what: its name in errors, the path if None.

    Raises `error` for a file that is missing or holds anything else, or an object that names a key twice.
    """
    what = str(path) if what is None else what
    return parse_object(read_content(path, error, what), error, what)


def read_content(path: str | Path, error: type[ValueError], what: str) -> bytes:
    """Return the bytes of a file that is one object. Raises `error` for a file that is missing or too large."""
    try:
        found = Path(path).stat()
        if stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode):  # reading it could block forever
            raise error(f"{what} is a pipe or a device, expected a file")
        if found.st_size > MAX_BYTES:
            raise error(f"{what} has {in_bytes(found.st_size)}, expected {in_bytes(MAX_BYTES)} at most")
        return Path(path).read_bytes() if found.st_size else b""  # some files of the kernel block when they are read
    except FileNotFoundError:
        raise error(f"{what} does not exist{did_you_mean(path)}") from None


def parse_object(content: bytes, error: type[ValueError], what: str) -> dict[str, Any]:
    """Return the object in a UTF-8 text. Raises as `read_object` does."""
    try:
        value = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as problem:  # ValueError also for bad UTF-8 and for numbers of too many digits
        raise error(f"{what} is not valid JSON: {problem}") from None
    if not isinstance(value, dict):
        raise error(f"{what} holds a JSON {type(value).__name__}, expected an object")
    return value


def repeated_key(pairs: list[tuple[str, Any]]) -> str | None:
    """Return the first key that occurs twice, None if there is none, in linear time."""
    seen: set[str] = set()
    return next((name for name, _ in pairs if name in seen or seen.add(name)), None)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = repeated_key(pairs)
        raise ValueError(f"one object has the key {twice!r} twice")
    return found
