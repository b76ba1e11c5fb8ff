"""Where a picture named in a data file lies, or may lie. Opens nothing."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..image.errors import MissingImageError
from ..image.load import SCHEME, describe

MAX_PATH = 1000  # characters of a path in a message
MAX_FOLDERS = 200  # that are looked into for a picture that is elsewhere
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".JPG", ".JPEG", ".PNG")


def find_picture(source: Any, folders: Sequence[str]) -> Any:
    """Return a relative path joined to the first folder that has it; anything else unchanged.

    Without folders a path is relative to the current directory. Raises MissingImageError naming every place tried.
    """
    if not isinstance(source, (str, Path)) or not folders or _is_elsewhere(str(source)):
        return source
    places = [Path(folder, source).absolute() for folder in folders]
    for place in places:
        if os.path.isfile(place):  # False as well for what no path can be: too long, or with a null byte
            return str(place)
    tried = ", ".join(dict.fromkeys(describe(place, MAX_PATH) for place in places))
    raise MissingImageError(f"picture {describe(source)} not found; tried {tried}: check the path and image_folder")


def hint_for(source: Any, folders: Sequence[str]) -> str:
    """Return where a picture that was not found may be meant, "" where no guess holds: few places are looked at."""
    if not isinstance(source, (str, Path)) or _is_elsewhere(str(source)):
        return ""
    near = [Path(parent) for folder in folders for parent in (*Path(folder).parents[:2], *_subfolders(folder))]
    for folder in near:
        if os.path.isfile(folder / source):
            return f"; it would be found with image_folder {describe(folder, MAX_PATH)}"
    name = Path(source)
    shorter = [Path(*name.parts[start:]) for start in range(1, len(name.parts))]
    for folder in map(Path, folders):
        others = [folder / name.with_suffix(suffix) for suffix in SUFFIXES if name.name]
        others += [place / part for part in shorter for place in (folder, *folder.parents[:1])]
        for place in others:
            if os.path.isfile(place):
                return f"; there is {describe(place, MAX_PATH)}"
    return ""


def _subfolders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in itertools.islice(entries, MAX_FOLDERS) if entry.is_dir()]
    except OSError:  # a hint is no reason to fail
        return []


def _is_elsewhere(source: str) -> bool:
    """Tell whether no folder can matter: a URL, a data: URI, an absolute path."""
    return bool(SCHEME.match(source)) or source[:5].lower() == "data:" or os.path.isabs(os.path.expanduser(source))
