"""Images of requests: from the bytes of a file to tiles, which are kept, because each turn sends them again."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict

from ...image.decode import decode
from ...image.preprocess import ImageTiles, content_key, overview, preprocess
from ...image.spec import ImageSpec
from ..protocol import ImageInput

MAX_BYTES = 256 << 20  # about 37 images of LLaVA 1.6 or 190 of 1.5

NamedTiles = tuple[str, ImageTiles]  # with the content key, as in `generate.turn`


class TileStore:
    """Tiles by the hash of their file and its detail; the least recently used are dropped beyond max_bytes.

    max_pixels: limit on width * height of an image, checked before it is decoded. Safe to use from several threads.
    """

    def __init__(self, spec: ImageSpec, max_pixels: int, max_bytes: int = MAX_BYTES):
        self.spec, self.max_pixels, self.max_bytes = spec, max_pixels, max_bytes
        self.num_bytes = 0
        self._tiles: OrderedDict[tuple[bytes, bool], NamedTiles] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._tiles)

    def prepare(self, image: ImageInput, name: str) -> NamedTiles:
        """Return an image's content key and tiles. name: of the image in messages. Raises ImageError."""
        key = (hashlib.sha256(image.data).digest(), image.is_low_detail)
        with self._lock:
            if key in self._tiles:
                self._tiles.move_to_end(key)
                return self._tiles[key]
        decoded = decode(io.BytesIO(image.data), name, self.max_pixels)
        tiles = (overview if image.is_low_detail else preprocess)(decoded, self.spec)
        named = content_key(tiles), tiles
        self._keep(key, named)
        return named

    def _keep(self, key: tuple[bytes, bool], named: NamedTiles) -> None:
        with self._lock:
            if key not in self._tiles:
                self._tiles[key] = named
                self.num_bytes += named[1].pixels.nbytes
            while self.num_bytes > self.max_bytes:
                _, (_, dropped) = self._tiles.popitem(last=False)
                self.num_bytes -= dropped.pixels.nbytes
