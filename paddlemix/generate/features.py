"""Pictures to features for generation, through the cache that hangs on the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle

from ..image.tiles import ImageTiles

MAX_TILES = 32  # that the tower sees at once: bounds its memory, however many pictures there are


def features_of(model, pictures: Mapping[str, ImageTiles]) -> dict[str, Any]:
    """Return the features [num_tokens, H] of pictures by their content keys, each picture encoded at most once.

    A model in training mode encodes all of them anew and keeps nothing.
    """

    def encode(names: Sequence[str]) -> list:
        return _encode(model, [pictures[name] for name in names])

    if model.training:
        return dict(zip(pictures, encode(list(pictures)), strict=True))
    return model.feature_cache.fetch(list(pictures), encode)


def _encode(model, pictures: Sequence[ImageTiles]) -> list:
    features = []
    for group in _groups(pictures):
        pixels = np.concatenate([picture.pixels for picture in group]) if len(group) > 1 else group[0].pixels
        with paddle.no_grad():
            found = model.encode_images(pixels, [len(each.pixels) for each in group], [each.size for each in group])
            # A part of a larger tensor would keep all of it in memory as long as the part is held.
            features += [feature.clone() for feature in found] if len(group) > 1 else found
    return features


def _groups(pictures: Sequence[ImageTiles]) -> list[list[ImageTiles]]:
    """Cut a list of pictures so that no group has more than MAX_TILES tiles, unless it is a single picture."""
    groups: list[list[ImageTiles]] = []
    for picture in pictures:
        if not groups or sum(len(each.pixels) for each in groups[-1]) + len(picture.pixels) > MAX_TILES:
            groups.append([])
        groups[-1].append(picture)
    return groups
