"""Where a picture named in a data file lies. Opens nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..image.errors import MissingImageError
from ..image.load import SCHEME, describe


def find_picture(source: Any, folders: Sequence[str]) -> Any:
    """Return a relative path joined to the first folder that has it; anything else unchanged.

    Without folders a path is relative to the current directory. Raises MissingImageError naming every place tried.
    """
    if not isinstance(source, (str, Path)) or not folders or _is_elsewhere(str(source)):
        return source
    places = [Path(folder, source).absolute() for folder in folders]
    for place in places:
        if place.is_file():
            return str(place)
    tried = ", ".join(dict.fromkeys(map(str, places)))
    raise MissingImageError(f"picture {describe(source)} not found; tried {tried}: check the path and image_folder")


def _is_elsewhere(source: str) -> bool:
    """Tell whether no folder can matter: a URL, a data: URI, an absolute path."""
    return bool(SCHEME.match(source)) or source[:5].lower() == "data:" or Path(source).expanduser().is_absolute()
