"""Samples to a batch: padding on the right, pictures in row order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..constants import IGNORE_INDEX, IMAGE_TOKEN_ID
from .sample import Batch, Sample


def collate(
    samples: Sequence[Sample], *, pad_id: int = 0, pad_to_multiple: int | None = None, max_length: int | None = None
) -> Batch:
    """Put samples side by side.

    Rows are as long as the longest sample, rounded up to pad_to_multiple where max_length allows; with
    pad_to_multiple = max_length every batch has that length. Padding has segment 0, position 0 and label -100. Batch
    fields are new arrays. Raises ValueError for no samples, a sample over max_length, labels in some samples only, and
    placeholders that are not as many as the picture tokens.
    """
    if not samples:
        raise ValueError("there are no samples to collate: expected at least one")
    _check(samples)
    lengths = [len(sample.token_ids) for sample in samples]
    width = _width(lengths, pad_to_multiple, max_length)
    has_labels = samples[0].labels is not None
    return Batch(
        token_ids=_pad([sample.token_ids for sample in samples], width, pad_id),
        labels=_pad([sample.labels for sample in samples], width, IGNORE_INDEX) if has_labels else None,
        position_ids=_pad([np.arange(length) for length in lengths], width, 0),
        segment_ids=_pad([np.ones(length) for length in lengths], width, 0),
        **stack_images(samples),
        notes=tuple(note for sample in samples for note in sample.notes),
    )


def stack_images(samples: Sequence[Sample]) -> dict[str, np.ndarray | None]:
    """Return the batch fields of all pictures in row order; None for each when no sample has one."""
    images = [image for sample in samples for image in sample.images]
    if not images:
        return {"pixels": None, "tiles_per_image": None, "image_sizes": None}
    return {
        "pixels": np.concatenate([image.pixels for image in images]).astype(np.float32, copy=False),
        "tiles_per_image": np.array([len(image.pixels) for image in images], dtype=np.int64),
        "image_sizes": np.array([image.size for image in images], dtype=np.int64),
    }


def _check(samples: Sequence[Sample]) -> None:
    num_labelled = sum(sample.labels is not None for sample in samples)
    if num_labelled not in (0, len(samples)):
        raise ValueError(f"{num_labelled} of {len(samples)} samples have labels: expected all or none")
    for row, sample in enumerate(samples):
        num_placeholders = int((np.asarray(sample.token_ids) == IMAGE_TOKEN_ID).sum())
        num_tokens = sum(image.num_tokens for image in sample.images)
        if num_placeholders != num_tokens:
            raise ValueError(
                f"sample {row} has {num_placeholders} image placeholders, but its {len(sample.images)} images "
                f"have {num_tokens} tokens"
            )


def _width(lengths: Sequence[int], pad_to_multiple: int | None, max_length: int | None) -> int:
    longest = max(lengths)
    if max_length is not None and longest > max_length:
        raise ValueError(f"sample {lengths.index(longest)} has {longest} tokens, but max_length is {max_length}")
    if pad_to_multiple is None:
        return longest
    if pad_to_multiple < 1:
        raise ValueError(f"pad_to_multiple must be at least 1, found {pad_to_multiple}")
    width = -(-longest // pad_to_multiple) * pad_to_multiple
    return width if max_length is None else min(width, max_length)


def _pad(rows: Sequence[np.ndarray], width: int, value: int) -> np.ndarray:
    padded = np.full([len(rows), width], value, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded
