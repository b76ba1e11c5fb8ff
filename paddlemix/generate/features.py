"""Image features for generation: encoded in groups, and kept so that no image is encoded twice in a row."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import paddle

from ..image.preprocess import ImageTiles

MAX_BYTES = 256 * 1024 * 1024  # about 50 images of LLaVA 1.5 or 11 of 1.6, with 7B parameters in 16 bits
MAX_TILES = 32  # tiles that the tower encodes at once: bounds its memory for any number of images


class FeatureCache:
    """Features by the content key of their image. The least recently used are dropped beyond max_bytes.

    Safe to use from several threads. The features belong to one version of a model's weights: those of an earlier
    `weights_version` are never returned. Call `clear` after changing the tower or the projector of a model in eval
    mode, which does not change its version.
    """

    def __init__(self, max_bytes: int = MAX_BYTES):
        self.max_bytes = max_bytes
        self._features: OrderedDict[str, Any] = OrderedDict()
        self.num_bytes = 0
        self._version = 0
        self._lock = threading.RLock()

    def __reduce__(self):
        """Copy and pickle as an empty cache: locks cannot be copied, and the copy's weights may change."""
        return FeatureCache, (self.max_bytes,)

    def __contains__(self, name: str) -> bool:
        return name in self._features

    def __len__(self) -> int:
        return len(self._features)

    def fetch(
        self, names: Sequence[str], encode: Callable[[list[str]], Sequence[Any]], version: int = 0
    ) -> dict[str, Any]:
        """Return the features of these images for a version of the weights; `encode` makes the missing ones."""
        wanted = list(dict.fromkeys(names))
        with self._lock:
            if version != self._version:
                self.clear()
                self._version = version
            features = self._features
            found = {name: features[name] for name in wanted if name in features}
        missing = [name for name in wanted if name not in found]
        if missing:  # without the lock, so that other threads continue; two may encode the same image, and agree
            found.update(zip(missing, encode(missing), strict=True))
        with self._lock:
            if features is self._features:  # otherwise the cache was cleared while these were encoded
                self._keep(found)
        return found

    def drop(self, name: str) -> None:
        """Forget an image, if it is cached."""
        with self._lock:
            features = self._features.pop(name, None)
            if features is not None:
                self.num_bytes -= _size(features)

    def clear(self) -> None:
        with self._lock:
            self._features = OrderedDict()
            self.num_bytes = 0

    def _keep(self, found: dict[str, Any]) -> None:
        for name, features in found.items():
            self.drop(name)
            self._features[name] = features
            self.num_bytes += _size(features)
        while self.num_bytes > self.max_bytes:
            self.drop(next(iter(self._features)))


def cache_of(model) -> FeatureCache:
    """Return the cache that a model shares among its sessions (`api.LlavaForConditionalGeneration`), or a new one."""
    return model.feature_cache if hasattr(model, "feature_cache") else FeatureCache()


def encode_missing(model, images: Mapping[str, ImageTiles], cache: FeatureCache) -> dict[str, Any]:
    """Return the features [num_tokens, H] of images by content key, encoding those that are not cached.

    A model in training mode encodes all of them, and its cache stays empty.
    """

    def encode(names: Sequence[str]) -> list:
        return _encode(model, [images[name] for name in names])

    if model.training:
        cache.clear()
        return dict(zip(images, encode(list(images)), strict=True))
    return cache.fetch(list(images), encode, model.weights_version)


def _encode(model, images: Sequence[ImageTiles]) -> list:
    features = []
    for group in _groups(images):
        pixels = np.concatenate([image.pixels for image in group]) if len(group) > 1 else group[0].pixels
        with paddle.no_grad():
            found = model.encode_images(pixels, [len(image.pixels) for image in group], [image.size for image in group])
            # A slice would keep the features of the whole group in memory.
            features += [feature.clone() for feature in found] if len(group) > 1 else found
    return features


def _groups(images: Sequence[ImageTiles]) -> list[list[ImageTiles]]:
    """Split images into groups of at most MAX_TILES tiles; an image with more tiles is a group by itself."""
    groups: list[list[ImageTiles]] = []
    for image in images:
        if not groups or sum(len(each.pixels) for each in groups[-1]) + len(image.pixels) > MAX_TILES:
            groups.append([])
        groups[-1].append(image)
    return groups


def _size(features) -> int:
    """Return the bytes of a tensor."""
    return int(features.size) * features.element_size()
