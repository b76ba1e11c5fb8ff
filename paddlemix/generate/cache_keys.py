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


def embed_keys(model, rows: Sequence[Sequence[Key | None]], features: Mapping[str, Any]):
    """Return embeddings [B, T, H] of rows with equally many keys; None is padding.

    features: [num_tokens, H] by content key of all images in the rows. A row may contain a part of an image.
    """
    ids = [[_id_of(key) for key in row] for row in rows]
    pieces = [features[name][start:end] for row in rows for name, start, end in _runs(row)]
    with paddle.no_grad():
        return place(model.language_model.embed_tokens, np.array(ids, dtype=np.int64), pieces)


def _id_of(key: Key | None) -> int:
    return 0 if key is None else key if isinstance(key, int) else IMAGE_TOKEN_ID


def _runs(row: Sequence[Key | None]) -> list[tuple[str, int, int]]:
    """Return (image, first place, place after the last) for each run of consecutive places of an image."""
    runs: list[tuple[str, int, int]] = []
    is_after = False
    for key in row:
        if isinstance(key, tuple):
            name, number = key
            if is_after and runs[-1][0] == name and runs[-1][2] == number:
                runs[-1] = (name, runs[-1][1], number + 1)
            else:
                runs.append((name, number, number + 1))
        is_after = isinstance(key, tuple)
    return runs
