"""Look up images below a folder, and find those that have another ending or other capitals than a row says.

Each folder is listed once: on a network, asking for each image takes much longer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..data.readers.keys import ENDINGS
from .paths import raw_folder


def image_folder(name: str) -> str:
    """Return the path of a folder of images. Raises ValueError for anything else, also a folder in an archive."""
    folder = raw_folder(name)
    if not isinstance(folder, Path):
        raise ValueError(f"{folder} is in an archive: unpack it to look up its images")
    return str(folder)


class ImageTree:
    """The images below a folder, as they are when they are first asked for."""

    def __init__(self, root: str):
        self.root = root
        self._listed: dict[str, tuple[frozenset[str], dict[str, list[str]]]] = {}

    def has(self, name: str) -> bool:
        """Return whether a relative path with "/" between its parts is a file."""
        folder, _, last = name.rpartition("/")
        return last in self._files(folder)

    def find(self, name: str) -> str | None:
        """Return the relative path of an image, else of the one file that differs only in capitals or in its ending.

        None if there is no such file, or if there are several.
        """
        if self.has(name):
            return name
        *parts, last = name.split("/")
        folder = self._folder(parts)
        if folder is None:
            return None
        found = _alike(self._files(folder), last)
        return f"{folder}/{found}".lstrip("/") if found else None

    def _folder(self, parts: Sequence[str]) -> str | None:
        """Return the relative path of a folder, capitals aside."""
        path = ""
        for part in parts:
            below = self._list(path)[1].get(part.lower(), [])
            if part not in below and len(below) != 1:
                return None
            path = f"{path}/{part if part in below else below[0]}".lstrip("/")
        return path

    def _files(self, folder: str) -> frozenset[str]:
        return self._list(folder)[0]

    def _list(self, folder: str) -> tuple[frozenset[str], dict[str, list[str]]]:
        """Return the files of a folder, and its folders by their names in lower case; both empty if there is none."""
        if folder not in self._listed:
            self._listed[folder] = _listing(os.path.join(self.root, folder))
        return self._listed[folder]


def looked_up(tree: ImageTree) -> dict[str, Any]:
    """Return settings of a job that no earlier run had: images may have come since, so its output is made again."""
    return {"image_dir": tree.root, "looked_up_at": time.time_ns()}


def _listing(path: str) -> tuple[frozenset[str], dict[str, list[str]]]:
    files, folders = set(), {}
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_file():  # of links: what they lead to
                    files.add(entry.name)
                elif entry.is_dir():
                    folders.setdefault(entry.name.lower(), []).append(entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return frozenset(), {}
    except (OSError, ValueError) as error:  # ValueError: a NUL in a name
        raise ValueError(f"{path} cannot be listed: {error}") from None
    return frozenset(files), folders


def _alike(names: frozenset[str], wanted: str) -> str | None:
    """Return the only name that differs in capitals, else the only one that also differs in its ending."""
    lower = wanted.lower()
    found = [name for name in names if name.lower() == lower]
    if not found:
        ending = PurePosixPath(lower).suffix
        stem = lower.removesuffix(ending) if ending in ENDINGS else lower  # "fig.1" is all stem
        others = {stem + ending for ending in ENDINGS}
        found = [name for name in names if name.lower() in others]
    return found[0] if len(found) == 1 else None
