"""Write images of a data set to files, as far as they can be read."""

from __future__ import annotations

import io
import os
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from ..image.decode import MAX_PIXELS, decode
from ..image.errors import ImageError
from ..output import check_file
from .row import RowError

# Ending -> Pillow's format and options. Labels in figures need full resolution of colors.
ENCODINGS: dict[str, tuple[str, dict[str, Any]]] = {
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".png": ("PNG", {"compress_level": 1}),  # a third of the time of level 6, for the same size
}


def save_image(content: Any, path: Path, *, scratch: Path, is_overwriting: bool) -> None:
    """Write an image file whose content is another file's, in the format that its ending says.

    The content is kept as it is if that is its format, and converted to RGB otherwise. Raises RowError for an image
    that cannot be read, and if another image is there already, unless is_overwriting.
    """
    if not isinstance(content, bytes) or not content:
        raise RowError("no image", f"there is no content for {path.name}")
    content = _encoded(content, path)
    check_file(path)
    if path.is_file() and not is_overwriting:
        if path.read_bytes() != content:
            raise RowError("another image has the name", f"{path} is there and is another image")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = scratch / str(os.getpid())  # one image at a time
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _encoded(content: bytes, path: Path) -> bytes:
    """Return the content of a file with a path's ending. Raises RowError."""
    wanted, options = encoding_of(path.name)
    try:
        image = decode(io.BytesIO(content), path.name, MAX_PIXELS)
    except ImageError as error:
        raise RowError("an image that cannot be read", str(error)) from None
    with Image.open(io.BytesIO(content)) as stored:
        if stored.format == wanted and stored.mode in ("RGB", "L"):
            return content
    buffer = io.BytesIO()
    image.save(buffer, wanted, **options)
    return buffer.getvalue()


def encoding_of(name: str) -> tuple[str, dict[str, Any]]:
    """Return the format of a file name's ending and the options to write it. Raises RowError for an unknown ending."""
    ending = PurePosixPath(name).suffix.lower()
    if ending not in ENCODINGS:
        raise RowError("an unknown kind of image", f"{name}: expected a name that ends with {', '.join(ENCODINGS)}")
    return ENCODINGS[ending]
