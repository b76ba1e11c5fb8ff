"""Tile geometry: from the size of an image to its tiles and its number of tokens. Arithmetic only, no pixels.

Sizes are (width, height). Every formula is the one of the official LLaVA repository (`llava/mm_utils.py` and
`llava/model/llava_arch.py`), in the same floating point steps, because a count that is off by one misplaces the text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .spec import ImageSpec


def select_grid(size: tuple[int, int], grids: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the canvas (width, height) px on which an image keeps most of its detail.

    The largest effective area wins, then the smallest wasted area, then the first of the list
    (`select_best_resolution`). Raises ValueError for an empty list.
    """
    if not grids:
        raise ValueError("no grids to choose from: an anyres image spec needs at least one (width, height)")
    width, height = checked_size(size)

    def merit(grid: tuple[int, int]) -> tuple[int, int]:
        scale = min(grid[0] / width, grid[1] / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, effective - grid[0] * grid[1]

    return max(grids, key=merit)  # max keeps the first of equals


def grid_shape(size: tuple[int, int], spec: ImageSpec) -> tuple[int, int]:
    """Return (columns, rows) of tiles on the canvas chosen for an image."""
    width, height = select_grid(size, spec.grids)
    return width // spec.side, height // spec.side


def num_tiles(size: tuple[int, int], spec: ImageSpec) -> int:
    """Return how many tiles an image becomes: for anyres tile 0 is the whole image, then the canvas row by row."""
    if spec.mode != "anyres":
        return 1
    columns, rows = grid_shape(size, spec)
    return 1 + columns * rows


def fitted_size(size: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    """Return the (width, height) of an image scaled to fit inside a canvas, at least 1 px each.

    Rounds up, unlike `select_grid` and `unpad_box` (`resize_and_pad_image`).
    """
    width, height = checked_size(size)
    scale_x, scale_y = canvas[0] / width, canvas[1] / height
    if scale_x < scale_y:
        return canvas[0], min(math.ceil(height * scale_x), canvas[1])
    return min(math.ceil(width * scale_y), canvas[0]), canvas[1]


def unpad_box(
    size: tuple[int, int], feature_width: int, feature_height: int, *, is_rounded: bool = False
) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right): the part of a feature mosaic that shows the image (slice of the map).

    The same number of rows (or columns) is dropped on both sides, so the rest has the parity of the whole: one more
    than the scaled image if that is odd. Can be empty for very long images (`unpad_image`). is_rounded: as
    transformers (`modeling_llava_next.py`), which rounds to 7 digits first: 26.9999999 is 27 there, 26 in LLaVA.
    """
    width, height = checked_size(size)
    digits = 7 if is_rounded else None
    if width / height > feature_width / feature_height:
        kept = _floor(height * (feature_width / width), digits)
        dropped = (feature_height - kept) // 2
        return dropped, feature_height - dropped, 0, feature_width
    kept = _floor(width * (feature_height / height), digits)
    dropped = (feature_width - kept) // 2
    return 0, feature_height, dropped, feature_width - dropped


def _floor(length: float, digits: int | None) -> int:
    return int(length if digits is None else round(length, digits))


def num_image_tokens(size: tuple[int, int], spec: ImageSpec) -> int:
    """Return how many tokens an image becomes for the language model. The only place that counts them.

    One tile (square, pad) never gets a newline, whatever `spec.merge` says: the official code merges nothing in a
    batch of single tiles. Raises ValueError if a class token would have a place in a mosaic.
    """
    checked_size(size)
    num_patches = spec.patches_per_side**2
    if spec.mode != "anyres" or spec.merge == "flat":
        return num_tiles(size, spec) * (num_patches + int(spec.has_class_token))
    if spec.has_class_token:
        raise ValueError(
            f"tile merge {spec.merge!r} lays patches out in a plane, where the class token has no place: "
            "use merge 'flat' or drop the class token (mm_vision_select_feature 'patch')"
        )
    if spec.merge == "spatial":
        return num_tiles(size, spec) * num_patches
    columns, rows = grid_shape(size, spec)
    sides = columns * spec.patches_per_side, rows * spec.patches_per_side
    top, bottom, left, right = unpad_box(size, *sides, is_rounded=spec.has_rounded_sizes)
    return num_patches + (bottom - top) * (right - left + 1)  # + 1: a newline after each row


def num_overview_tokens(spec: ImageSpec) -> int:
    """Return how many tokens an image of any size becomes as its overview tile alone, see `preprocess.overview`."""
    num_patches = spec.patches_per_side**2 + int(spec.has_class_token)
    # LLaVA-NeXT puts a newline after a single tile that "spatial_unpad" has nothing to join to (`llava_arch.py`).
    return num_patches + int(spec.mode == "anyres" and spec.merge == "spatial_unpad")


def checked_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return a size as plain ints; raise ValueError unless it is (width, height) of at least 1 px each."""
    width, height = (int(edge) for edge in size)
    if width < 1 or height < 1:
        raise ValueError(f"an image of {width}x{height} px (width x height) has no pixels: expected at least 1x1")
    return width, height
