"""Noise on embeddings while training (NEFTune, Jain et al. 2023)."""

from __future__ import annotations

import numpy as np
import paddle

from ..constants import IMAGE_TOKEN_ID


def neftune_noise(token_ids: np.ndarray, segment_ids: np.ndarray, embeds, alpha: float):
    """Return uniform noise [B, T, H] in -s .. s with s = alpha / sqrt(L H) for text, 0 for pictures and padding.

    L: the tokens of the sample that a token is in, so that a sample gets the same noise packed and alone.
    """
    width = embeds.shape[-1]
    scales = np.zeros(token_ids.shape, dtype=np.float32)
    for row, segments in enumerate(segment_ids):
        lengths = np.bincount(segments)[segments]
        is_text = (segments > 0) & (token_ids[row] != IMAGE_TOKEN_ID)
        scales[row] = np.where(is_text, alpha / np.sqrt(lengths * width), 0.0)
    noise = paddle.uniform(embeds.shape, dtype="float32", min=-1.0, max=1.0)
    return (noise * paddle.to_tensor(scales).unsqueeze(-1)).astype(embeds.dtype)
