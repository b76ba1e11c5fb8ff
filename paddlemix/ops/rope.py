"""Rotary position embedding (Su et al. 2021) in the "rotate half" convention of Hugging Face's LLaMA."""

from __future__ import annotations

import functools

import numpy as np
import paddle


def rope_tables(position_ids, head_dim: int, theta: float, num_heads: int, dtype, scales=None, amplitude: float = 1.0):
    """Return cos and sin [B, num_heads, T, head_dim] for integer positions [B, T]; angles are computed in float32.

    scales: float32 NumPy [head_dim / 2], or [B, T, head_dim / 2] for each position its own, that the frequencies are
    multiplied by, or None. amplitude: what both tables are multiplied by.

    The tables are as large as the queries, because Paddle's CPU kernels multiply equal shapes about six times as fast
    as shapes that have to be broadcast, and one pair of tables serves all layers.
    """
    powers = paddle.arange(0, head_dim, 2, dtype="float32") / head_dim
    inverse = 1.0 / paddle.pow(paddle.full([head_dim // 2], theta, dtype="float32"), powers)
    if scales is not None:
        inverse = inverse * paddle.to_tensor(scales)
    angles = position_ids.astype("float32").unsqueeze(-1) * inverse
    angles = paddle.concat([angles, angles], axis=-1)
    shape = [angles.shape[0], num_heads, angles.shape[1], head_dim]
    tables = paddle.cos(angles), paddle.sin(angles)
    if amplitude != 1.0:
        tables = tuple(table * amplitude for table in tables)
    return tuple(table.unsqueeze(1).astype(dtype).expand(shape).contiguous() for table in tables)


def apply_rope(x, cos, sin):
    """Rotate x [B, heads, T, D] by tables of the same shape."""
    return x * cos + rotate_half(x) * sin


def rotate_half(x):
    """Return [-x2, x1] for the halves [x1, x2] of the last axis."""
    if x.place.is_cpu_place():
        # A product with a matrix of 0 and +-1 is exact, and much faster than slicing there.
        return paddle.matmul(x, _half_turn(x.shape[-1]))
    first, second = paddle.split(x, 2, axis=-1)
    return paddle.concat([-second, first], axis=-1)


@functools.lru_cache(maxsize=8)
def _half_turn(dim: int):
    matrix = np.zeros((dim, dim), dtype=np.float32)
    half = dim // 2
    matrix[half:, :half] = -np.eye(half)
    matrix[:half, half:] = np.eye(half)
    return paddle.to_tensor(matrix, place=paddle.CPUPlace())
