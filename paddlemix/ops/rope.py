"""Rotary position embedding (Su et al. 2021): each two numbers of a head are turned as a point of the plane.

In the order "halves" number i is turned with i + head_dim / 2 ("rotate half" of Hugging Face's LLaMA), in the order
"pairs" 2 i with 2 i + 1, as in the paper.
"""

from __future__ import annotations

import functools

import numpy as np
import paddle

from .gradients import Rotation, wants_own_gradient


def rope_tables(
    position_ids,
    head_dim: int,
    theta: float,
    num_heads: int,
    dtype,
    scales=None,
    amplitude: float = 1.0,
    order: str = "halves",
):
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
    if order == "pairs":
        angles = paddle.stack([angles, angles], axis=-1).flatten(-2)
    else:
        angles = paddle.concat([angles, angles], axis=-1)
    shape = [angles.shape[0], num_heads, angles.shape[1], head_dim]
    tables = paddle.cos(angles), paddle.sin(angles)
    if amplitude != 1.0:
        tables = tuple(table * amplitude for table in tables)
    return tuple(table.unsqueeze(1).astype(dtype).expand(shape).contiguous() for table in tables)


def apply_rope(x, cos, sin, order: str = "halves"):
    """Rotate x [B, heads, T, D] by tables of the same shape and order."""
    if wants_own_gradient(x):
        return Rotation.apply(x, cos, sin, QUARTER_TURNS[order])
    return x * cos + QUARTER_TURNS[order](x) * sin


def rotate_half(x):
    """Return [-x2, x1] for the halves [x1, x2] of the last axis."""
    if x.place.is_cpu_place():
        # A product with a matrix of 0 and +-1 is exact, and much faster than slicing there.
        return paddle.matmul(x, _half_turn(x.shape[-1]))
    first, second = paddle.split(x, 2, axis=-1)
    return paddle.concat([-second, first], axis=-1)


def rotate_pairs(x):
    """Return [-x2, x1, -x4, x3, ...] for the numbers [x1, x2, x3, x4, ...] of the last axis."""
    if x.place.is_cpu_place():
        return paddle.matmul(x, _pair_turn(x.shape[-1]))
    return paddle.stack([-x[..., 1::2], x[..., ::2]], axis=-1).flatten(-2)


QUARTER_TURNS = {"halves": rotate_half, "pairs": rotate_pairs}


@functools.lru_cache(maxsize=8)
def _half_turn(dim: int):
    matrix = np.zeros((dim, dim), dtype=np.float32)
    half = dim // 2
    matrix[half:, :half] = -np.eye(half)
    matrix[:half, half:] = np.eye(half)
    return paddle.to_tensor(matrix, place=paddle.CPUPlace())


@functools.lru_cache(maxsize=8)
def _pair_turn(dim: int):
    matrix = np.kron(np.eye(dim // 2), [[0, 1], [-1, 0]]).astype(np.float32)
    return paddle.to_tensor(matrix, place=paddle.CPUPlace())
