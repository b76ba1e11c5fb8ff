"""How much each trained token counts in the loss."""

from __future__ import annotations

import numpy as np

from ..constants import IGNORE_INDEX
from .sample import Batch

REDUCTIONS = ("token", "sample")


def loss_weights(batch: Batch, reduction: str) -> np.ndarray:
    """Return float32 [B, T], 0 where nothing is trained. The loss is the weighted sum over the sum of the weights.

    "token": every trained token counts 1, as in LLaVA. "sample": every sample counts 1, its trained tokens in equal
    parts. Raises ValueError for another reduction.
    """
    is_trained = np.asarray(batch.labels) != IGNORE_INDEX
    is_trained[:, :1] = False  # nothing predicts the first token
    weights = is_trained.astype(np.float32)
    if reduction == "token":
        return weights
    if reduction != "sample":
        raise ValueError(f"loss reduction {reduction!r}: expected one of {', '.join(REDUCTIONS)}")
    for row, segments in enumerate(np.asarray(batch.segment_ids)):
        num_trained = np.bincount(segments, weights=weights[row])
        weights[row] /= np.maximum(num_trained, 1)[segments]
    return weights
