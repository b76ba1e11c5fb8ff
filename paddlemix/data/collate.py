"""Samples to a batch: padding on the right, pictures in row order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..constants import IGNORE_INDEX, IMAGE_TOKEN_ID
from .sample import Batch, Sample


def collate(
    samples: Sequence[Sample], *, pad_id: int = 0, pad_to_multiple: int | None = None, max_length: int | None = None
) -> Batch:
    """Put samples side by side, one a row. See `collate_packs`."""
    return collate_packs(
        [[sample] for sample in samples], pad_id=pad_id, pad_to_multiple=pad_to_multiple, max_length=max_length
    )


def collate_packs(
    packs: Sequence[Sequence[Sample]],
    *,
    pad_id: int = 0,
    pad_to_multiple: int | None = None,
    max_length: int | None = None,
) -> Batch:
    """Put packs side by side: a row holds the samples of a pack one after the other, as segments 1, 2, ...

    The positions of each sample start at 0, and its first label is -100, since no sample predicts the next one. Rows
    are as long as the longest pack, rounded up to pad_to_multiple where max_length allows; with pad_to_multiple =
    max_length every batch has that length. Padding has segment 0, position 0 and label -100. Batch fields are new
    arrays. Raises ValueError for no samples, a row over max_length, labels in some samples only, and placeholders that
    are not as many as the picture tokens.
    """
    samples = [sample for pack in packs for sample in pack]
    if not samples or not all(packs):
        raise ValueError("there are no samples to collate: expected at least one in every row")
    _check(samples)
    width = _width([sum(len(sample.token_ids) for sample in pack) for pack in packs], pad_to_multiple, max_length)
    has_labels = samples[0].labels is not None
    return Batch(
        token_ids=_pad([[sample.token_ids for sample in pack] for pack in packs], width, pad_id),
        labels=_pad([[_own_labels(sample) for sample in pack] for pack in packs], width, IGNORE_INDEX)
        if has_labels
        else None,
        position_ids=_pad([[np.arange(len(sample.token_ids)) for sample in pack] for pack in packs], width, 0),
        segment_ids=_pad(
            [[np.full(len(sample.token_ids), n) for n, sample in enumerate(pack, start=1)] for pack in packs], width, 0
        ),
        **stack_images(samples),
        notes=tuple(note for sample in samples for note in sample.notes),
        where=tuple(sample.where for sample in samples),
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


def _own_labels(sample: Sample) -> np.ndarray:
    """Return the labels without the first: nothing of the sample comes before it to predict it from."""
    return np.concatenate([[IGNORE_INDEX], sample.labels[1:]])


def _width(lengths: Sequence[int], pad_to_multiple: int | None, max_length: int | None) -> int:
    longest = max(lengths)
    if max_length is not None and longest > max_length:
        raise ValueError(f"row {lengths.index(longest)} has {longest} tokens, but max_length is {max_length}")
    if pad_to_multiple is None:
        return longest
    if pad_to_multiple < 1:
        raise ValueError(f"pad_to_multiple must be at least 1, found {pad_to_multiple}")
    width = -(-longest // pad_to_multiple) * pad_to_multiple
    return width if max_length is None else min(width, max_length)


def _pad(rows: Sequence[Sequence[np.ndarray]], width: int, value: int) -> np.ndarray:
    """Return each row's parts one after the other, and value up to width."""
    padded = np.full([len(rows), width], value, dtype=np.int64)
    for index, parts in enumerate(rows):
        row = np.concatenate(parts)
        padded[index, : len(row)] = row
    return padded
