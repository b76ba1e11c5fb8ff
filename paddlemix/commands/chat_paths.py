"""Paths as people put them into a line of the chat: typed, quoted, pasted or dropped from a file manager."""

from __future__ import annotations

import os
import re
import shlex
import urllib.parse

from ..image.load import is_address

# A word with one of these ends is rather a file than a question.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
PATH_STARTS = ("/", "~", "./", "../", "'", '"', "file:")


def paths_in(text: str) -> list[str]:
    """Return the paths and addresses of a text: one as it stands, or several with quotes or escapes where needed.

    'a b.png', "a b.png", a\\ b.png and file:///a%20b.png are names of one file.
    """
    text = text.strip()
    if not text or _exists(text):
        return [text] if text else []
    try:
        words = [_from_address(word) for word in shlex.split(text)]
    except ValueError:  # a single quote, or a broken address
        words = []
    is_several = len(words) > 1 and all(_exists(word) or is_address(word) for word in words)
    return words if is_several or len(words) == 1 else [text]


def images_of(line: str) -> list[str]:
    """Return the paths of a line that has nothing but the paths of files, else []."""
    if line[:1].isspace():
        return []
    paths = paths_in(line)
    is_path = all(path.lower().endswith(SUFFIXES) for path in paths) or line.startswith(PATH_STARTS)
    return paths if is_path and all(os.path.isfile(os.path.expanduser(path)) for path in paths) else []


def is_like_an_image(line: str) -> bool:
    """Return whether a line is one word that ends as the names of images do, though there need be no such file."""
    return line.lower().rstrip().endswith(SUFFIXES) and not re.search(r"\s", line.rstrip())


def completed(start: str) -> list[str]:
    """Return the paths that begin with this text, folders with a slash at their end."""
    folder, name = os.path.split(start)
    try:
        entries = list(os.scandir(os.path.expanduser(folder) or "."))
    except (OSError, ValueError):
        return []
    wanted = [one for one in entries if one.name.startswith(name) and one.name.isprintable()]
    shown = [one for one in wanted if name or not one.name.startswith(".")]
    return sorted(os.path.join(folder, one.name) + ("/" if one.is_dir() else "") for one in shown)


def _exists(path: str) -> bool:
    try:
        return os.path.exists(os.path.expanduser(path))
    except ValueError:  # a null byte
        return False


def _from_address(word: str) -> str:
    """Return the path of a file:// address, and any other word as it is."""
    parts = urllib.parse.urlsplit(word) if word.lower().startswith("file:") else None
    is_here = parts is not None and parts.netloc in ("", "localhost") and parts.path.startswith("/")
    return urllib.parse.unquote(parts.path) if is_here else word
