"""Small JPEG images in a page: each image once, however many items show it."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ...image.load import load_image
from ..item import ImageSource
from .markup import safe

MAX_SIDE, MIN_SIDE = 320, 96  # px
BYTES_PER_PIXEL = 0.22  # of a photograph at this quality, over the square of its longer side, base64 included
QUALITY, SMALL_QUALITY = 75, 90
SMALL_SIDE = 128  # px; smaller images are cheap, and blocks would show where they are enlarged


def side_for(num_images: int, max_bytes: int) -> int:
    """Return the longer side, in px, at which so many images take about `max_bytes`."""
    side = math.isqrt(int(max(0, max_bytes) / max(1, num_images) / BYTES_PER_PIXEL))
    return max(MIN_SIDE, min(MAX_SIDE, side // 16 * 16))


@dataclass(frozen=True)
class Shown:
    """What a page has to hold to show an image. data: HTML that must stand before `view` once, "" later on."""

    view: str
    data: str = ""


@dataclass(frozen=True)
class Boxes:
    """The right box and the one that was read: (left, top, right, bottom), fractions of the image's width and height.

    is_padded: fractions of the square to which the image is padded at both sides.
    """

    right: Sequence[float] | None = None
    read: Sequence[float] | None = None
    is_padded: bool = False

    def drawn(self, width: int, height: int) -> str:
        """Return rectangles in an SVG image of a size in px."""
        named = [("right", "right answer", self.right), ("read", "read in the answer", self.read)]
        return "".join(self._rectangle(kind, title, box, width, height) for kind, title, box in named if box)

    def _rectangle(self, kind: str, title: str, box: Sequence[float], width: int, height: int) -> str:
        wide, high = (max(width, height),) * 2 if self.is_padded else (width, height)
        left, right = (box[place] * wide - (wide - width) / 2 for place in (0, 2))
        top, bottom = (box[place] * high - (high - height) / 2 for place in (1, 3))
        size = f'width="{max(0.0, right - left):.1f}" height="{max(0.0, bottom - top):.1f}"'
        return f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" {size}><title>{title}</title></rect>'


NO_BOXES = Boxes()


class Thumbnails:
    """Make the images of a page, one by one. max_side: px."""

    def __init__(self, max_side: int):
        self.max_side = max_side
        self._known: dict[str, tuple[int, int, int]] = {}  # number, width and height by file or content

    def show(self, source: ImageSource, label: str, boxes: Boxes = NO_BOXES) -> Shown:
        """Return an image of an item, with boxes on it. One that cannot be read is a text that says why."""
        try:
            found = source()
            key = str(found) if isinstance(found, Path) else hashlib.sha256(found).hexdigest()
            data = "" if key in self._known else self._add(key, found)
        except (ValueError, OSError) as error:
            return Shown(f'<p class="missing">The image cannot be shown: {safe(error)}</p>')
        number, width, height = self._known[key]
        size = f'viewBox="0 0 {width} {height}" style="--w:{width};--h:{height}"'
        inside = f'<use href="#image{number}"/>{boxes.drawn(width, height)}'
        return Shown(f'<svg {size} role="img" aria-label="{label}">{inside}</svg>', data)

    def _add(self, key: str, found: Path | bytes) -> str:
        """Read an image and return the definition that all its places refer to."""
        image = load_image(found, allow_url=False)
        image.thumbnail((self.max_side, self.max_side), Image.Resampling.LANCZOS)
        width, height = image.size
        is_small, file = max(width, height) <= SMALL_SIDE, io.BytesIO()
        image.save(file, "JPEG", quality=SMALL_QUALITY if is_small else QUALITY, optimize=True)
        self._known[key] = (len(self._known) + 1, width, height)
        uri = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
        shape = f'id="image{len(self._known)}" width="{width}" height="{height}" href="{uri}"'
        return f'<svg class="data" width="0" height="0" aria-hidden="true"><defs><image {shape}/></defs></svg>\n'
