"""Image features for generation: encoded a few tiles at a time, and kept so that no image is encoded twice in a row."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import paddle

from ..image.preprocess import ImageTiles

MAX_BYTES = 256 * 1024 * 1024  # about 50 images of LLaVA 1.5 or 11 of 1.6, with 7B parameters in 16 bits
MAX_TILES = 32  # tiles that the tower encodes at once: bounds its memory for any number of images


class FeatureStore:
    """Features [num_tokens, H] by the content key of their image; the least recently used are dropped beyond max_bytes.

    They belong to one version of a model's weights. Safe to use from several threads.
    """

    def __init__(self, max_bytes: int = MAX_BYTES):
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._features: OrderedDict[str, Any] = OrderedDict()
        self._version = 0
        self._lock = threading.Lock()

    def __contains__(self, name: str) -> bool:
        return name in self._features

    def __len__(self) -> int:
        return len(self._features)

    def get(self, name: str):
        """Return an image's features, or None if they are not known."""
        with self._lock:
            if name in self._features:
                self._features.move_to_end(name)
            return self._features.get(name)

    def add(self, name: str, features) -> None:
        """Keep an image's features."""
        with self._lock:
            if name not in self._features:
                self._features[name] = features
                self.num_bytes += _size(features)
            while self.num_bytes > self.max_bytes:
                _, dropped = self._features.popitem(last=False)
                self.num_bytes -= _size(dropped)

    def use_version(self, version: int) -> None:
        """Forget the features of another version of the weights."""
        if version != self._version:
            self.clear()
            self._version = version

    def clear(self) -> None:
        """Forget all images."""
        with self._lock:
            self._features = OrderedDict()
            self.num_bytes = 0


class ImageEncoder:
    """Encodes images with a model, and keeps the tiles of those that are not finished."""

    def __init__(self, model, store: FeatureStore):
        self.model, self.store = model, store
        self.num_encoded = 0  # images
        self.seconds = 0.0  # in the vision tower, see `EngineCounts`
        self._tiles: dict[str, list] = {}  # encoded tiles by the image's content key, in parts

    def clear(self) -> None:
        """Forget all images, finished or not."""
        self.store.clear()
        self._tiles = {}

    def drop_unfinished(self, kept: Iterable[str]) -> None:
        """Forget the tiles of images that are not finished, apart from these."""
        self._tiles = {name: self._tiles[name] for name in kept if name in self._tiles}

    def fetch(self, images: Mapping[str, ImageTiles]) -> dict[str, Any]:
        """Return the features of those of these images that are known."""
        found = {name: self.store.get(name) for name in images}
        return {name: features for name, features in found.items() if features is not None}

    def advance(self, images: Iterable[tuple[str, ImageTiles]], max_tiles: int) -> tuple[int, dict[str, Any]]:
        """Encode at most max_tiles tiles of these images, in order; return their number, and the finished images.

        Images that are known already take no time.
        """
        chosen: dict[str, tuple[ImageTiles, int, int]] = {}  # image, first tile, tile after the last
        num_left = max_tiles
        for name, image in images:
            start = sum(part.shape[0] for part in self._tiles.get(name, ()))
            count = min(len(image.pixels) - start, num_left)
            if count > 0 and name not in chosen and name not in self.store:
                chosen[name] = (image, start, start + count)
                num_left -= count
        if not chosen:
            return 0, {}
        parts = [image.pixels[start:end] for image, start, end in chosen.values()]
        with paddle.no_grad():
            started = time.monotonic()
            encoded = self.model.encode_tiles(np.concatenate(parts) if len(parts) > 1 else parts[0])
            self.seconds += time.monotonic() - started
            return max_tiles - num_left, self._collect(chosen, encoded)

    def _collect(self, chosen: dict[str, tuple[ImageTiles, int, int]], encoded) -> dict[str, Any]:
        """Add encoded tiles to their images; return the features of those that are finished."""
        finished, first = {}, 0
        for name, (image, start, end) in chosen.items():
            number = end - start
            tiles = self._tiles.setdefault(name, [])
            tiles.append(encoded[first : first + number] if len(chosen) > 1 else encoded)
            first += number
            if end == len(image.pixels):
                joined = paddle.concat(tiles) if len(tiles) > 1 else tiles[0]
                del self._tiles[name]
                # A copy, because a slice may keep the features of all images that were encoded together in memory.
                finished[name] = self.model.arrange(joined, image.size).clone()
                self.store.add(name, finished[name])
                self.num_encoded += 1
        return finished


def _size(features) -> int:
    """Return the bytes of a tensor."""
    return int(features.size) * features.element_size()
