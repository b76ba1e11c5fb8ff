"""An image in the form that the vision tower takes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ImageTiles:
    """One preprocessed image: pixels float32 [tiles, 3, side, side], size (width, height) px, its token count."""

    pixels: np.ndarray
    size: tuple[int, int]
    num_tokens: int


def content_key(tiles: ImageTiles) -> str:
    """Return a hexadecimal sha256 of the pixels and the size: equal for images that the model cannot tell apart.

    The size is part of it, because AnyRes crops the features by the size.
    """
    digest = hashlib.sha256(repr((tiles.pixels.shape, tiles.pixels.dtype.str, tuple(map(int, tiles.size)))).encode())
    digest.update(np.ascontiguousarray(tiles.pixels))
    return digest.hexdigest()
