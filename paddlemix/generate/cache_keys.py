"""What the cache holds, place by place: a token id, or for a place inside a picture the picture's hash and the place.

Two texts with equal keys are the same to the model, pictures included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle

from ..constants import IMAGE_TOKEN_ID
from ..image.tiles import ImageTiles
from ..models.image_features import place

Key = int | tuple[str, int]


def keys_of(token_ids: Sequence[int], pictures: Sequence[tuple[str, ImageTiles]]) -> list[Key]:
    """Give every id its key; pictures: (content key, picture) in the order of their runs."""
    places = ((name, number) for name, tiles in pictures for number in range(tiles.num_tokens))
    return [next(places) if token == IMAGE_TOKEN_ID else token for token in token_ids]


def num_common(first: Sequence[Key], second: Sequence[Key]) -> int:
    """Return how many keys both begin with."""
    number = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        number += 1
    return number


def embed_keys(model, rows: Sequence[Sequence[Key | None]], features: Mapping[str, Any]):
    """Return embeddings [B, T, H] of rows of equally many keys, of which None is padding.

    features: [num_tokens, H] by the content key of each picture that occurs, of which a row may hold a part.
    """
    ids = [[_id_of(key) for key in row] for row in rows]
    pieces = [features[name][start:end] for row in rows for name, start, end in _runs(row)]
    with paddle.no_grad():
        return place(model.language_model.embed_tokens, np.array(ids, dtype=np.int64), pieces)


def _id_of(key: Key | None) -> int:
    return 0 if key is None else key if isinstance(key, int) else IMAGE_TOKEN_ID


def _runs(row: Sequence[Key | None]) -> list[tuple[str, int, int]]:
    """Return (picture, first place, place after the last) for each run of places that follow each other."""
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
