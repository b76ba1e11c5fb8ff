"""How large a picture is, without decoding more of it than has to be."""

from __future__ import annotations

import os
from typing import Any

from PIL import Image

from .load import FORMATS, ORIENTATION_TAG, SCHEME, UPRIGHT, load_image

SIDEWAYS = {
    tag
    for tag, turn in UPRIGHT.items()
    if turn
    in (
        Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
    )
}


def picture_size(source: Any) -> tuple[int, int]:
    """Return the (width, height) px that `load_image(source)` has. Of a file only the head is read.

    So a file that breaks off later is not noticed. Raises ImageError as `load_image`.
    """
    is_file = isinstance(source, str | os.PathLike) and not (isinstance(source, str) and is_address(source))
    if not (is_file and os.path.isfile(source) and os.path.getsize(source)):  # opening a pipe would wait for ever
        return load_image(source).size
    Image.init()
    try:
        with Image.open(source, formats=[known for known in FORMATS if known in Image.OPEN]) as image:
            width, height = image.size
            return (height, width) if image.getexif().get(ORIENTATION_TAG) in SIDEWAYS else (width, height)
    except Exception:  # Pillow's readers raise whatever a broken head leads them to
        return load_image(source).size  # which says what is wrong


def is_address(source: str) -> bool:
    """Tell a URL or a data: URI from a path."""
    return source[:5].lower() == "data:" or SCHEME.match(source) is not None
