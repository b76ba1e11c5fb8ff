"""Encoded conversations, alone and as a batch: what the loader makes and the model takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..image.preprocess import ImageTiles
from .row_note import RowNote


@dataclass(frozen=True)
class Sample:
    """One encoded conversation.

    token_ids int64 [T], with a run of -200 for each image. labels int64 [T], not shifted, -100 = not trained; None for
    a prompt. images: in the order of the runs. notes: rows that it replaces, and whether it was cut. where: file and
    number of its row.
    """

    token_ids: np.ndarray
    labels: np.ndarray | None
    images: tuple[ImageTiles, ...] = ()
    notes: tuple[RowNote, ...] = ()
    where: str = ""


@dataclass(frozen=True)
class Batch:
    """Samples side by side, as NumPy arrays.

    token_ids, labels, position_ids, segment_ids int64 [B, T] (labels may be None); segment_ids 0 = padding,
    1.. = sample in the row. pixels float32 [sum of tiles, 3, side, side] or None; tiles_per_image int64 [images];
    image_sizes int64 [images, 2] as (width, height) px; images in row order. notes, where: of the samples.
    """

    token_ids: np.ndarray
    labels: np.ndarray | None
    position_ids: np.ndarray
    segment_ids: np.ndarray
    pixels: np.ndarray | None = None
    tiles_per_image: np.ndarray | None = None
    image_sizes: np.ndarray | None = None
    notes: tuple[RowNote, ...] = ()
    where: tuple[str, ...] = ()
