"""Preprocess an image to the tiles of the vision tower, as CLIP, SigLIP and LLaVA do, with PIL and NumPy only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .anyres import fitted_size, num_image_tokens, num_overview_tokens, select_grid
from .errors import ImageError
from .spec import RESAMPLES, ImageSpec

# Beyond these limits, the official steps take gigabytes for a small file (5000x1: 1,680,000x336 px).
MAX_STRIP = 16  # long edge over short edge, to crop to the short edge; the rest is cut off before the resize
MAX_PADDED_SIDE = 8192  # px: a longer image is first reduced by a whole factor, then padded


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


def preprocess(image: Image.Image, spec: ImageSpec) -> ImageTiles:
    """Cut and normalize an image in mode RGB (as `load_image` returns it).

    Raises ImageError for another mode and ValueError for an image without pixels.
    """
    _check_mode(image)
    size, num_tokens = image.size, num_image_tokens(image.size, spec)
    tiles = _anyres_tiles(image, spec) if spec.mode == "anyres" else [np.asarray(_one_tile(image, spec))]
    return ImageTiles(_normalize(tiles, spec), size, num_tokens)


def overview(image: Image.Image, spec: ImageSpec) -> ImageTiles:
    """Cut and normalize an image as `preprocess` does, but to one tile whatever its size: tile 0 of anyres.

    For images of which little detail is needed. Raises ImageError for another mode than RGB.
    """
    _check_mode(image)
    tile = _resized(image, (spec.side, spec.side), spec) if spec.mode == "anyres" else _one_tile(image, spec)
    return ImageTiles(_normalize([np.asarray(tile)], spec), image.size, num_overview_tokens(spec))


def _check_mode(image: Image.Image) -> None:
    if image.mode != "RGB":
        raise ImageError(f"expected an image in mode RGB, found {image.mode}: read it with load_image")


def _one_tile(image: Image.Image, spec: ImageSpec) -> Image.Image:
    """Return the image as a square of `spec.side` px (for "square" without a crop: SigLIP's image processor)."""
    if spec.mode == "pad":
        image = _pad_to_square(image, spec.mean)
    if not spec.has_crop:
        return _resized(image, (spec.side, spec.side), spec)
    resize = (spec.side,) if spec.resize is None else spec.resize
    if len(resize) == 1:
        image = _trim_strip(image, MAX_STRIP * max(1, -(-spec.side // resize[0])))
        resize = _short_edge_to(image.size, resize[0])
    return _crop(_resized(image, resize, spec) if resize else image, spec.side)


def _resized(image: Image.Image, size: tuple[int, int], spec: ImageSpec) -> Image.Image:
    """Scale to (width, height) with the filter of the spec."""
    return image.resize(size, Image.Resampling(RESAMPLES.index(spec.resample)))


def _trim_strip(image: Image.Image, max_ratio: int) -> Image.Image:
    """Cut the ends off a very long image, which a center crop would not show."""
    width, height = image.size
    limit = max_ratio * min(width, height)
    cut_x, cut_y = max(0, width - limit) // 2, max(0, height - limit) // 2
    return image.crop((cut_x, cut_y, width - cut_x, height - cut_y)) if cut_x or cut_y else image


def _pad_to_square(image: Image.Image, mean: tuple[float, float, float]) -> Image.Image:
    """Paste an image into the middle of a square of the mean color (`expand2square` of LLaVA's `mm_utils.py`)."""
    side = max(image.size)
    if side > MAX_PADDED_SIDE:
        image = image.reduce(-(-side // MAX_PADDED_SIDE))
        side = max(image.size)
    canvas = Image.new("RGB", (side, side), tuple(int(255 * channel) for channel in mean))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def _short_edge_to(size: tuple[int, int], edge: int) -> tuple[int, int]:
    """Return (width, height) with a short edge of `edge` px, the long one rounded down (CLIP's processor)."""
    width, height = size
    long_edge = int(edge * max(width, height) / min(width, height))
    return (edge, long_edge) if width <= height else (long_edge, edge)


def _crop(image: Image.Image, side: int) -> Image.Image:
    """Cut out the middle, padding a smaller image with black: `center_crop` of transformers' image_transforms.py."""
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _anyres_tiles(image: Image.Image, spec: ImageSpec) -> list[np.ndarray]:
    """Return uint8 [side, side, 3] of each tile: the whole image squashed, then the padded canvas row by row."""
    side = spec.side
    width, height = select_grid(image.size, spec.grids)
    fitted = _resized(image, fitted_size(image.size, (width, height)), spec)
    canvas = Image.new("RGB", (width, height))  # black
    canvas.paste(fitted, ((width - fitted.width) // 2, (height - fitted.height) // 2))
    rows = np.asarray(canvas).reshape(height // side, side, width // side, side, 3).swapaxes(1, 2)
    whole = np.asarray(_resized(image, (side, side), spec))
    return [whole, *(tile for row in rows for tile in row)]


def _normalize(tiles: list[np.ndarray], spec: ImageSpec) -> np.ndarray:
    """Return (value * rescale_factor - mean) / std as float32 [tiles, 3, side, side] from uint8 [side, side, 3]."""
    mean, std = mean_and_std(spec)
    factor, shift = (spec.rescale_factor / std).astype(np.float32), (mean / std).astype(np.float32)
    pixels = np.empty([len(tiles), 3, spec.side, spec.side], np.float32)
    for target, tile in zip(pixels, tiles, strict=True):  # one tile at a time stays in the processor's cache
        np.copyto(target, tile.transpose(2, 0, 1))
        target *= factor
        target -= shift
    return pixels


def restore_values(pixels: np.ndarray, spec: ImageSpec) -> np.ndarray:
    """Return the uint8 values of normalized pixels [..., 3, side, side], before `preprocess` normalized them."""
    mean, std = mean_and_std(spec)
    return np.clip(np.rint((pixels * std + mean) / spec.rescale_factor), 0, 255).astype(np.uint8)


def mean_and_std(spec: ImageSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean to subtract and the divisor, float64 [3, 1, 1] each."""
    values = (spec.mean, spec.std) if spec.has_normalize else ((0.0,) * 3, (1.0,) * 3)
    mean, std = (np.asarray(one, dtype=np.float64).reshape(3, 1, 1) for one in values)
    return mean, std
