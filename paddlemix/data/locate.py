"""Where a picture named in a data file lies. Opens nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..image.errors import MissingImageError
from ..image.load import SCHEME, describe

MAX_PATH = 1000  # characters of a path in a message


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


def _is_elsewhere(source: str) -> bool:
    """Tell whether no folder can matter: a URL, a data: URI, an absolute path."""
    return bool(SCHEME.match(source)) or source[:5].lower() == "data:" or os.path.isabs(os.path.expanduser(source))
