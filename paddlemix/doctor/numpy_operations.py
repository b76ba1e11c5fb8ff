"""Operations in NumPy in float64: the reference that a device's results are compared with. Needs no paddle."""

from __future__ import annotations

import numpy as np


def attend(query, key, value, visible) -> np.ndarray:
    """Attend; query [B, heads, T, D], key and value [B, kv_heads, T, D], visible bool [B or 1, 1, T, T]."""
    group = query.shape[1] // key.shape[1]
    scores = query @ key.repeat(group, 1).transpose(0, 1, 3, 2) / np.sqrt(query.shape[3])
    weights = np.where(visible, np.exp(scores - scores.max(-1, keepdims=True)), 0.0)
    return weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30) @ value.repeat(group, 1)


def causal(length: int) -> np.ndarray:
    """Return bool [1, 1, T, T], True where a key is at or before a query."""
    return np.tri(length, dtype=bool)[None, None]


def dense(query, key, value) -> np.ndarray:
    """Attend causally and to everything; return the sum."""
    visible = causal(query.shape[2])
    return attend(query, key, value, visible) + attend(query, key, value, np.ones_like(visible))


def packed(query, key, value, segments) -> np.ndarray:
    """Attend causally within segments, integers [B, T]; zeros where they are 0."""
    same = (segments[:, :, None] == segments[:, None])[:, None]
    return attend(query, key, value, same & causal(query.shape[2])) * (segments > 0)[:, None, :, None]


def rms_norm(x, weight, epsilon: float) -> np.ndarray:
    """Return x / sqrt(mean(x^2) + epsilon) * weight over the last axis."""
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight


def rotary(x, positions, theta: float) -> np.ndarray:
    """Rotate x [B, heads, T, D] by positions [B, T]; element i is paired with i + D / 2."""
    half = x.shape[3] // 2
    angles = positions[:, None, :, None] / theta ** (np.arange(half) / half)
    cos, sin = (np.concatenate([table, table], -1) for table in (np.cos(angles), np.sin(angles)))
    return x * cos + np.concatenate([-x[..., half:], x[..., :half]], -1) * sin


def swiglu(gate, up) -> np.ndarray:
    """Return silu(gate) * up."""
    return gate / (1 + np.exp(-gate)) * up
