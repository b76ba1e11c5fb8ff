"""Samples to a batch: padding on the right, images in row order, and the loss weights of the tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..constants import IGNORE_INDEX, IMAGE_TOKEN_ID
from .sample import Batch, Sample


def collate(samples: Sequence[Sample], *, pad_id: int = 0) -> Batch:
    """Return a batch with one sample in each row; see `collate_packs`."""
    return collate_packs([[sample] for sample in samples], pad_id=pad_id)


def collate_packs(
    packs: Sequence[Sequence[Sample]],
    *,
    pad_id: int = 0,
    pad_to_multiple: int | None = None,
    max_length: int | None = None,
) -> Batch:
    """Return a batch with one pack in each row: its samples one after the other, as segments 1, 2, ...

    The positions of each sample start at 0, and its first label is -100, since no sample predicts the next one. Rows
    are as long as the longest pack, rounded up to pad_to_multiple if max_length allows; with pad_to_multiple =
    max_length every batch has that length. Padding has segment 0, position 0 and label -100. Batch fields are new
    arrays. Raises ValueError if there are no samples, a row is longer than max_length, only some samples have labels,
    or the number of placeholders differs from the number of image tokens.
    """
    samples = [sample for pack in packs for sample in pack]
    if not samples or not all(packs):
        raise ValueError("there are no samples to collate: expected at least one in every row")
    _check(samples)
    width = _width([sum(len(sample.token_ids) for sample in pack) for pack in packs], pad_to_multiple, max_length)
    has_labels = samples[0].labels is not None
    return Batch(
        token_ids=_pad([[sample.token_ids for sample in pack] for pack in packs], width, pad_id),
        labels=_pad([[_predicted_labels(sample) for sample in pack] for pack in packs], width, IGNORE_INDEX)
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
    """Return the batch fields of all images in row order, or None for each field if there are no images."""
    images = [image for sample in samples for image in sample.images]
    if not images:
        return {"pixels": None, "tiles_per_image": None, "image_sizes": None}
    return {
        "pixels": np.concatenate([image.pixels for image in images]).astype(np.float32, copy=False),
        "tiles_per_image": np.array([len(image.pixels) for image in images], dtype=np.int64),
        "image_sizes": np.array([image.size for image in images], dtype=np.int64),
    }


def _check(samples: Sequence[Sample]) -> None:
    num_labeled = sum(sample.labels is not None for sample in samples)
    if num_labeled not in (0, len(samples)):
        raise ValueError(f"{num_labeled} of {len(samples)} samples have labels: expected all or none")
    for row, sample in enumerate(samples):
        num_placeholders = int((np.asarray(sample.token_ids) == IMAGE_TOKEN_ID).sum())
        num_tokens = sum(image.num_tokens for image in sample.images)
        if num_placeholders != num_tokens:
            raise ValueError(
                f"sample {row} has {num_placeholders} image placeholders, but its {len(sample.images)} images "
                f"have {num_tokens} tokens"
            )


def _predicted_labels(sample: Sample) -> np.ndarray:
    """Return the labels without the first one: no token of the sample precedes and predicts it."""
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
    """Return int64 [rows, width]: the parts of each row one after the other, padded with value."""
    padded = np.full([len(rows), width], value, dtype=np.int64)
    for index, parts in enumerate(rows):
        row = np.concatenate(parts)
        padded[index, : len(row)] = row
    return padded


def loss_weights(batch: Batch, reduction: str) -> np.ndarray:
    """Return the loss weight of each token, float32 [B, T], 0 = not trained.

    The loss is the weighted sum divided by the sum of the weights. reduction "token": each trained token has weight 1,
    as in LLaVA. "sample": each sample has weight 1, in equal parts for its trained tokens. Raises ValueError for
    another reduction.
    """
    is_trained = np.asarray(batch.labels) != IGNORE_INDEX
    is_trained[:, :1] = False  # nothing predicts the first token
    weights = is_trained.astype(np.float32)
    if reduction == "token":
        return weights
    if reduction != "sample":
        raise ValueError(f"loss reduction {reduction!r}: expected one of token, sample")
    for row, segments in enumerate(np.asarray(batch.segment_ids)):
        num_trained = np.bincount(segments, weights=weights[row])
        weights[row] /= np.maximum(num_trained, 1)[segments]
    return weights
