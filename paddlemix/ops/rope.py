"""Rotary position embedding (Su et al. 2021) in the "rotate half" convention of Hugging Face's LLaMA."""

from __future__ import annotations

import paddle


def rope_tables(position_ids, head_dim: int, theta: float):
    """Return cos and sin, float32 [B, 1, T, head_dim], for integer positions [B, T]."""
    powers = paddle.arange(0, head_dim, 2, dtype="float32") / head_dim
    inverse = 1.0 / paddle.pow(paddle.full([head_dim // 2], theta, dtype="float32"), powers)
    angles = position_ids.astype("float32").unsqueeze(-1) * inverse
    angles = paddle.concat([angles, angles], axis=-1).unsqueeze(1)
    return paddle.cos(angles), paddle.sin(angles)


def apply_rope(x, cos, sin):
    """Rotate x [B, heads, T, D] by the tables [B, 1, T, D]."""
    first, second = paddle.split(x, 2, axis=-1)
    return x * cos + paddle.concat([-second, first], axis=-1) * sin
