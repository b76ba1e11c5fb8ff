"""Find the file or folder that a mistyped path was probably meant to name."""

from __future__ import annotations

import difflib
import itertools
import os
from pathlib import Path

MAX_LISTED = 10_000  # names of a folder that are compared
LIKE = 0.75  # similarity from which a name counts as the one that was meant


def did_you_mean(path: str | os.PathLike) -> str:
    """Return the end of an error text, "; did you mean data/train.json?", or "" if no path is near.

    path: one that does not exist. One of its parts may be mistyped; the others have to be there.
    """
    try:
        near = _near(Path(path))
    except (OSError, ValueError):  # ValueError: a null byte
        return ""
    return "" if near is None else f"; did you mean {near}?"


def _near(path: Path) -> Path | None:
    parts = path.parts
    for number, part in enumerate(parts):
        folder = Path(*parts[:number])
        if (folder / part).exists():
            continue
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, MAX_LISTED)]
        lower = {name.lower(): name for name in names}
        for name in difflib.get_close_matches(part.lower(), lower, n=3, cutoff=LIKE):
            near = folder.joinpath(lower[name], *parts[number + 1 :])
            if near.exists():
                return near
        return None
    return None
