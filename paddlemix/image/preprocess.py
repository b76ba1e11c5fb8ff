"""From a picture to the tiles of the vision tower, as CLIP, SigLIP and LLaVA do it, with PIL and NumPy only."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .anyres import fitted_size, num_image_tokens, select_grid
from .errors import ImageError
from .spec import ImageSpec
from .tiles import ImageTiles

# Beyond these the exact official steps need gigabytes for a picture of a few kilobytes (5000x1: 1,680,000x336 px).
MAX_STRIP = 16  # long edge over short edge, for a centre crop: more than this is cut off before the resize
MAX_PADDED_SIDE = 8192  # px: a longer picture is first reduced by a whole factor, then padded


def preprocess(image: Image.Image, spec: ImageSpec) -> ImageTiles:
    """Cut and normalise a picture in mode RGB (as `load_image` returns it).

    Raises ImageError for another mode and ValueError for a picture without pixels.
    """
    if image.mode != "RGB":
        raise ImageError(f"expected a picture in mode RGB, found {image.mode}: read it with load_image")
    size, num_tokens = image.size, num_image_tokens(image.size, spec)
    tiles = _anyres_tiles(image, spec) if spec.mode == "anyres" else [np.asarray(_one_tile(image, spec))]
    return ImageTiles(_normalise(tiles, spec), size, num_tokens)


def _one_tile(image: Image.Image, spec: ImageSpec) -> Image.Image:
    """Return the picture as a square of `spec.side` px (for "square" without a crop: SigLIP's image processor)."""
    if spec.mode == "pad":
        image = _pad_to_square(image, spec.mean)
    elif not spec.has_crop:
        return image.resize((spec.side, spec.side), Image.Resampling.BICUBIC)
    else:
        image = _trim_strip(image)
    return _resize_and_crop(image, spec.side)


def _trim_strip(image: Image.Image) -> Image.Image:
    """Cut the ends off a very long picture, of which a centre crop shows nothing."""
    width, height = image.size
    limit = MAX_STRIP * min(width, height)
    cut_x, cut_y = max(0, width - limit) // 2, max(0, height - limit) // 2
    return image.crop((cut_x, cut_y, width - cut_x, height - cut_y)) if cut_x or cut_y else image


def _pad_to_square(image: Image.Image, mean: tuple[float, float, float]) -> Image.Image:
    """Put a picture in the middle of a square of the mean colour (`expand2square` of LLaVA's `mm_utils.py`)."""
    side = max(image.size)
    if side > MAX_PADDED_SIDE:
        image = image.reduce(-(-side // MAX_PADDED_SIDE))
        side = max(image.size)
    canvas = Image.new("RGB", (side, side), tuple(int(255 * channel) for channel in mean))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def _resize_and_crop(image: Image.Image, side: int) -> Image.Image:
    """Scale the short edge to `side` and cut out the middle (CLIP's image processor)."""
    width, height = image.size
    long_side = int(side * max(width, height) / min(width, height))
    scaled = (side, long_side) if width <= height else (long_side, side)
    image = image.resize(scaled, Image.Resampling.BICUBIC)
    left, top = (scaled[0] - side) // 2, (scaled[1] - side) // 2
    return image.crop((left, top, left + side, top + side))


def _anyres_tiles(image: Image.Image, spec: ImageSpec) -> list[np.ndarray]:
    """Return uint8 [side, side, 3] of each tile: the whole picture squashed, then the padded canvas row by row."""
    side = spec.side
    width, height = select_grid(image.size, spec.grids)
    fitted = image.resize(fitted_size(image.size, (width, height)), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (width, height))  # black
    canvas.paste(fitted, ((width - fitted.width) // 2, (height - fitted.height) // 2))
    rows = np.asarray(canvas).reshape(height // side, side, width // side, side, 3).swapaxes(1, 2)
    whole = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
    return [whole, *(tile for row in rows for tile in row)]


def _normalise(tiles: list[np.ndarray], spec: ImageSpec) -> np.ndarray:
    """Return (tiles / 255 - mean) / std as float32 [tiles, 3, side, side] from uint8 [side, side, 3] of each."""
    mean, std = (np.asarray(values, dtype=np.float64).reshape(3, 1, 1) for values in (spec.mean, spec.std))
    factor, shift = (1 / (255 * std)).astype(np.float32), (mean / std).astype(np.float32)
    pixels = np.empty([len(tiles), 3, spec.side, spec.side], np.float32)
    for target, tile in zip(pixels, tiles, strict=True):  # one after the other stays in the processor's cache
        np.copyto(target, tile.transpose(2, 0, 1))
        target *= factor
        target -= shift
    return pixels
