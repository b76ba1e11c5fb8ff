"""The keys and origins of a server, as its owner writes them down."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ...terminal.log import notice
from ...terminal.near_paths import did_you_mean
from ...terminal.sizes import plural

KEY_VARIABLE = "PADDLEMIX_API_KEY"
KEY_HINT = f"a key, in ${KEY_VARIABLE} or with --api-key @FILE"  # in this order: a flag is seen in `ps`


def all_keys(words: Sequence[str]) -> tuple[str, ...]:
    """Return the keys of --api-key and of the environment. Raises ValueError for a file or a key that is none."""
    keys = [key for word in words for key in _keys_of(word)]
    from_environment = os.environ.get(KEY_VARIABLE, "").strip()
    keys += [from_environment] if from_environment else []
    for key in keys:
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ValueError("a key has spaces or characters other than printable ASCII, which no header can hold")
    return tuple(dict.fromkeys(keys))


def _keys_of(word: str) -> list[str]:
    path = Path(word.removeprefix("@"))
    if not word.startswith("@") and not path.is_file():
        if not word.strip():
            raise ValueError("--api-key is empty: leave the option out for a server without keys")
        return [word.strip()]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ValueError(f"the file of keys {path} does not exist{did_you_mean(path)}") from None
    except OSError as error:
        raise ValueError(f"the file of keys {path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"the file of keys {path} is no UTF-8 text: expected a key on each line") from None
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise ValueError(f"the file of keys {path} has no key: expected one on each line")
    if not word.startswith("@"):  # the word may be meant as a key, so it is not repeated
        notice(f"--api-key names a file: the {plural(len(keys), 'key')} in it open the server, not the name itself")
    return keys


def checked_origins(origins: Sequence[str], *, has_keys: bool) -> tuple[str, ...]:
    """Return the origins of --allow-origins. Raises ValueError for one that is none."""
    for origin in origins:
        if origin == "*":
            if not has_keys:
                raise ValueError(f"--allow-origins * lets every web page use the server: it needs {KEY_HINT}")
            continue
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/") or parts.query:
            raise ValueError(f"--allow-origins has {origin!r}: expected an origin as https://chat.example.com")
    return tuple(origin.rstrip("/") for origin in origins)
