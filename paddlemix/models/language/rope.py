"""How rotary frequencies are stretched so that a decoder reads longer contexts than it was first trained on."""

from __future__ import annotations

import math

import numpy as np

from ..config import LanguageConfig


def frequency_scales(config: LanguageConfig) -> np.ndarray | None:
    """Return what each rotary frequency is multiplied by, float32 [head_dim / 2], or None where none is changed.

    "linear" (Chen et al. 2023) divides all by factor. "llama3" (Grattafiori et al. 2024) divides those that turn fewer
    than low_freq_factor times within the original context, keeps those that turn more than high_freq_factor times, and
    goes over from one to the other linearly in the number of turns.
    """
    scaling, dim = config.rope_scaling, config.head_dim
    if scaling is None:
        return None
    if scaling.kind == "linear":
        return np.full(dim // 2, 1 / scaling.factor, np.float32)
    frequencies = config.rope_theta ** -(np.arange(0, dim, 2) / dim)
    num_turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((num_turns - low) / (high - low), 0.0, 1.0)
    return (kept + (1 - kept) / scaling.factor).astype(np.float32)
