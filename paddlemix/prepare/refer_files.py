"""REFER's files of phrases and boxes (RefCOCO, RefCOCO+, RefCOCOg), read without running code, and frames of boxes."""

from __future__ import annotations

import pickle
from io import BytesIO
from typing import Any

from .paths import RawPath, read_whole

Box = tuple[float, float, float, float]
# What a damaged pickle raises: a number that is no list to append to, a key that is a list, a length beyond any memory.
BAD_PICKLE = (pickle.UnpicklingError, EOFError, AttributeError, LookupError, ValueError, TypeError)
BAD_PICKLE += (OverflowError, MemoryError)


class _PlainUnpickler(pickle.Unpickler):
    """Read lists, dicts, texts and numbers; refuse everything that would run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"the file wants to load {module}.{name}, which lists of phrases do not need")


def read_references(path: RawPath) -> list[dict]:
    """Return the references in a pickle, as refs(unc).p. Raises ValueError if it holds anything but plain values."""
    content = BytesIO(read_whole(path))
    try:
        value = _PlainUnpickler(content, encoding="utf-8").load()  # Python 2 wrote bytes
    except BAD_PICKLE as error:
        raise ValueError(f"{path} is not a file of REFER: {error or 'it asks for more memory than there is'}") from None
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError(f"{path} holds a {type(value).__name__}, expected a list of references")
    return value


def in_image(corners: Box, size: tuple[int, int]) -> Box:
    """Return a box (left, top, right, bottom, px) as fractions of the image's (width, height)."""
    width, height = size
    return corners[0] / width, corners[1] / height, corners[2] / width, corners[3] / height


def in_square(corners: Box, size: tuple[int, int]) -> Box:
    """Return a box as fractions of the image padded to a square, centered, in which LLaVA's training has boxes.

    Source: haotian-liu/LLaVA issue 606.
    """
    side = max(size)
    x, y = (side - size[0]) / 2, (side - size[1]) / 2
    return (corners[0] + x) / side, (corners[1] + y) / side, (corners[2] + x) / side, (corners[3] + y) / side
