"""Keys that identify the content of a cache, place by place: a token id, or an image's hash and a place in the image.

Texts with equal keys are equal to the model, images included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle

from ..constants import IMAGE_TOKEN_ID
from ..image.preprocess import ImageTiles
from ..models.image_features import place

Key = int | tuple[str, int]


def keys_of(token_ids: Sequence[int], images: Sequence[tuple[str, ImageTiles]]) -> list[Key]:
    """Return the key of every id. images: (content key, image) in the order of their placeholders."""
    places = ((name, number) for name, tiles in images for number in range(tiles.num_tokens))
    return [next(places) if token == IMAGE_TOKEN_ID else token for token in token_ids]


def num_common(first: Sequence[Key], second: Sequence[Key]) -> int:
    """Return the length of the common prefix of two lists of keys."""
    number = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        number += 1
    return number


def image_names(keys: Sequence[Key]) -> dict[str, None]:
    """Return the content keys of the images among keys, in order."""
    return dict.fromkeys(key[0] for key in keys if isinstance(key, tuple))


def embed_keys(model, keys: Sequence[Key], features: Mapping[str, Any]):
    """Return embeddings [1, T, H] of keys, which may begin and end within an image.

    features: [num_tokens, H] by content key of all images among the keys.
    """
    ids = [key if isinstance(key, int) else IMAGE_TOKEN_ID for key in keys]
    pieces = [features[name][start:end] for name, start, end in _runs(keys)]
    with paddle.no_grad():
        return place(model.language_model.embed_tokens, np.array([ids], dtype=np.int64), pieces)


def _runs(keys: Sequence[Key]) -> list[tuple[str, int, int]]:
    """Return (image, first place, place after the last) for each run of consecutive places of an image."""
    runs: list[tuple[str, int, int]] = []
    is_after = False
    for key in keys:
        if isinstance(key, tuple):
            name, number = key
            if is_after and runs[-1][0] == name and runs[-1][2] == number:
                runs[-1] = (name, runs[-1][1], number + 1)
            else:
                runs.append((name, number, number + 1))
        is_after = isinstance(key, tuple)
    return runs
