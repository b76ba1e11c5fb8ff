"""Images of more than 8 bits a value, reduced to 8. PIL's own conversion of gray cuts every value off at 255."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .errors import ImageError

BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0, section 8
MAX_VALUE = (1 << 16) - 1


@dataclass(frozen=True)
class Depth:
    """What a file says of its values beyond Pillow's mode.

    num_bits: how many bits of a gray value count, None if the container's 16 or 32 are all that the file says.
    is_inverted: 0 is white, which Pillow turns in images of 8 bits only. is_cut: Pillow keeps the upper 8 of 16 bits of
    each colour.
    """

    num_bits: int | None = None
    is_inverted: bool = False
    is_cut: bool = False


def stated_depth(image: Image.Image) -> Depth:
    """Return what the file of an image says. To be called before the pixels are loaded: Pillow forgets it then."""
    codec, _, _, arguments = image.tile[0] if getattr(image, "tile", None) else ("", None, None, "")
    layout = arguments if isinstance(arguments, tuple) else (arguments,)
    is_gray = image.mode.startswith("I")
    if image.format == "PPM" and codec != "raw":  # Pillow has scaled maxval to its own range
        is_scaled = len(layout) > 1 and 255 < layout[1] < MAX_VALUE
        return Depth(16 if is_gray and is_scaled else None, is_cut=not is_gray and len(layout) > 1 and layout[1] > 255)
    is_cut = not is_gray and isinstance(layout[0], str) and ";16" in layout[0]
    if image.format != "TIFF":
        return Depth(is_cut=is_cut)
    bits = image.tag_v2.get(BITS_PER_SAMPLE, (0,))[0]
    is_inverted = is_gray and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO
    return Depth(bits if is_gray and 8 < bits < 16 else None, is_inverted, is_cut)


def to_8_bits(image: Image.Image, depth: Depth, name: str) -> Image.Image:
    """Return an image that has 8 bits a value, or can have no more, as it is, and reduce deep gray to "L" or "LA".

    Where the file states no depth, gray values up to 255 have 8 bits and stay as they are, values up to 4095 have 12,
    and others 16; of more than 8 the upper 8 stay. Raises ImageError, naming the image, for gray below 0 or above
    65535, and for colours that Pillow made all black because they fit the lower 8 of 16 bits.
    """
    if depth.is_cut and not _has_colour(image):
        raise ImageError(f"{name} has 16 bits a channel, but all values fit the lower 8: save it with 8 bits a channel")
    if not image.mode.startswith("I"):  # "I" is 16 bit too in older Pillow
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


def _has_colour(image: Image.Image) -> bool:
    """Tell if any channel but the transparency is not all 0."""
    extrema = image.getextrema()
    extrema = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return any(most > 0 for band, (_, most) in zip(image.getbands(), extrema, strict=True) if band != "A")
