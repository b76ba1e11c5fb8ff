"""Decode the file of an image to upright RGB with 8 bits a channel."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image

from ..terminal.sizes import plural
from .errors import EXPECTED, ImageError

# As many as Pillow itself opens. An image takes 3 to 4 bytes a pixel in memory.
MAX_PIXELS = 178_956_970
# Photographs and drawings only: some of Pillow's other readers start programs (EPS: Ghostscript).
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
# Beginnings of files that are often taken for images, and what they are.
OTHERS = {
    b"<svg": "a drawing in SVG: save it as PNG",
    b"<?xml": "XML, maybe a drawing in SVG: save it as PNG",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"%pdf": "a PDF: save the page as PNG",
    b"version https://": "a Git LFS pointer: fetch the file with `git lfs pull`",
    b"pk\x03\x04": "a ZIP archive: unpack it",
    b"\x1f\x8b": "compressed with gzip: unpack it",
    b"{": "JSON",
}
HEIC, VIDEO = (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1"), (b"ftypisom", b"ftypmp4", b"ftypqt", b"ftypm4v")
ORIENTATION_TAG = 0x0112
# EXIF 2.3, section 4.6.4 A: orientation value -> the transpose that makes the stored image upright
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Formats whose loaded images keep only pixels and notes; others keep the file, for its other images. None is the format
# of an image that was made here.
LIGHT = ("JPEG", "PNG", None)
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0, section 8
MAX_VALUE = (1 << 16) - 1


def decode(file: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    """Return the image in a file in mode RGB. name: for errors. Raises ImageError."""
    start = file.read(16)
    if not start:
        raise ImageError(f"{name} is empty: it has 0 bytes")
    file.seek(0)
    try:
        image = _opened(file)
    except Image.UnidentifiedImageError as error:
        size = file.seek(0, os.SEEK_END)
        raise ImageError(f"{name} has an unknown format: {found_in(start, size)}; expected {EXPECTED}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} has too many pixels: {error}") from error
    except Exception as error:  # Pillow's readers raise anything for a broken header
        raise ImageError(f"{name} is broken: {type(error).__name__}: {error}") from error
    return to_rgb(image, name, max_pixels)


def found_in(start: bytes, size: int) -> str:
    """Return what a file of `size` bytes seems to be. start: its first bytes."""
    begin = start.lower()
    kind = next((kind for mark, kind in OTHERS.items() if begin.startswith(mark)), "")
    if begin[4:].startswith(HEIC):
        kind = "a photo in HEIC: save it as JPEG"
    elif begin[4:].startswith(VIDEO):
        kind = "a video"
    return f"it starts with {start!r}{kind and f' ({kind})'} and has {plural(size, 'byte')}"


def read_stored_size(path: str) -> tuple[int, int]:
    """Return the upright (width, height) px that the header of a file states. Raises whatever Pillow's readers do."""
    with _opened(path) as image:
        width, height = image.size
        return (height, width) if image.getexif().get(ORIENTATION_TAG) in SIDEWAYS else (width, height)


def _opened(file: BinaryIO | str) -> Image.Image:
    Image.init()
    return Image.open(file, formats=[known for known in FORMATS if known in Image.OPEN])


def to_rgb(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    """Load the pixels, turn them upright and convert them to RGB. Raises ImageError."""
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels: it is {width}x{height}")
    if width * height > max_pixels:
        raise ImageError(f"{name} has too many pixels: {width}x{height}, the limit is {max_pixels} in all")
    try:
        depth = _stated_depth(image)
        image.load()
        return _in_rgb(_to_8_bits(_turn_upright(image), depth, name), name)
    except ImageError:
        raise
    except Exception as error:  # as in `decode`: truncated and damaged data
        raise ImageError(f"{name} is broken or cut off: {type(error).__name__}: {error}") from error


def _turn_upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation."""
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # an unreadable EXIF block states no orientation; the pixels are fine
        orientation = 1
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _in_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert any mode of 8 bits to RGB, transparent parts on white."""
    if image.mode == "F":
        raise ImageError(f"{name} has floating point pixels of an unknown range: save it with 8 bits a channel")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode == "RGB" and image.format in LIGHT:
        return image  # `convert` would copy it
    return image.convert("RGB")


@dataclass(frozen=True)
class _Depth:
    """What a file states of its values beyond Pillow's mode.

    num_bits: significant bits of a gray value, None if only the container's 16 or 32 are known.
    is_inverted: 0 is white, which Pillow handles only in images of 8 bits. is_cut: Pillow keeps the upper 8 of 16 bits
    of each color.
    """

    num_bits: int | None = None
    is_inverted: bool = False
    is_cut: bool = False


def _stated_depth(image: Image.Image) -> _Depth:
    """Return the depth that the file of an image states. Call it before the pixels are loaded: Pillow forgets it."""
    codec, _, _, arguments = image.tile[0] if getattr(image, "tile", None) else ("", None, None, "")
    layout = arguments if isinstance(arguments, tuple) else (arguments,)
    is_gray = image.mode.startswith("I")
    if image.format == "PPM" and codec != "raw":  # Pillow has scaled maxval to its own range
        is_scaled = len(layout) > 1 and 255 < layout[1] < MAX_VALUE
        return _Depth(16 if is_gray and is_scaled else None, is_cut=not is_gray and len(layout) > 1 and layout[1] > 255)
    is_cut = not is_gray and isinstance(layout[0], str) and ";16" in layout[0]
    if image.format != "TIFF":
        return _Depth(is_cut=is_cut)
    bits = image.tag_v2.get(BITS_PER_SAMPLE, (0,))[0]
    is_inverted = is_gray and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO
    return _Depth(bits if is_gray and 8 < bits < 16 else None, is_inverted, is_cut)


def _to_8_bits(image: Image.Image, depth: _Depth, name: str) -> Image.Image:
    """Reduce deep gray to "L" or "LA"; return any other image as it is. PIL's own conversion clips values at 255.

    Where the file states no depth, gray values up to 255 have 8 bits and stay as they are, values up to 4095 have 12,
    and others 16. Of more than 8 bits the upper 8 stay. Raises ImageError for gray below 0 or above 65535, and for
    colors that Pillow made all black because they fit the lower 8 of 16 bits.
    """
    if depth.is_cut and not _has_color(image):
        raise ImageError(f"{name} has 16 bits a channel, but all values fit the lower 8: save it with 8 bits a channel")
    if not image.mode.startswith("I"):  # older Pillow also uses "I" for 16 bits
        return image
    values = np.asarray(image)
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > MAX_VALUE:
        raise ImageError(f"{name} has pixels from {least} to {most}: expected 0 to 65535; save it with 8 or 16 bits")
    num_bits = depth.num_bits or next(bits for bits in (8, 12, 16) if most < 1 << bits)
    reduced = (values >> (num_bits - 8)).astype(np.uint8)
    reduced = 255 - reduced if depth.is_inverted else reduced
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return Image.fromarray(reduced)
    return Image.fromarray(np.stack([reduced, np.where(values == transparent, 0, 255).astype(np.uint8)], axis=-1))


def _has_color(image: Image.Image) -> bool:
    """Return whether any channel but the transparency is not all 0."""
    extrema = image.getextrema()
    extrema = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return any(most > 0 for band, (_, most) in zip(image.getbands(), extrema, strict=True) if band != "A")
