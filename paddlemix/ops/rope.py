"""Rotary position embedding (Su et al. 2021): pairs of a head's components are rotated as points of the plane.

In the order "halves" component i is paired with i + head_dim / 2 ("rotate half" of Hugging Face's LLaMA), in the order
"pairs" 2 i with 2 i + 1, as in the paper.
"""

from __future__ import annotations

import functools

import numpy as np
import paddle
from paddle.autograd import PyLayer

from .kernel_checks import agrees, kind_of, name_of, run_custom, wants_own_gradient

NPU_OP = "fused_rope"
NPU_WIDTH = 64  # Ascend's operation needs heads of a multiple of this


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
    """Return cos and sin [B, num_heads or 1, T, head_dim] for integer positions [B, T]. Angles are in float32.

    scales: factors of the frequencies, float32 NumPy [head_dim / 2], or [B, T, head_dim / 2] with different ones for
    each position, or None. amplitude: factor of both tables.

    All layers share one pair of tables. On CPU they are as large as the queries, because Paddle's kernels there
    multiply equal shapes about six times as fast as shapes that need broadcasting; elsewhere all heads share them.
    """
    is_for_all = scales is not None and scales.ndim == 1
    inverse = _frequencies(head_dim, theta, scales.tobytes() if is_for_all else None, paddle.get_device())
    if scales is not None and not is_for_all:
        inverse = inverse * paddle.to_tensor(scales)
    angles = position_ids.astype("float32").unsqueeze(-1) * inverse
    if order == "pairs":
        angles = paddle.stack([angles, angles], axis=-1).flatten(-2)
    else:
        angles = paddle.concat([angles, angles], axis=-1)
    shape = [angles.shape[0], num_heads if kind_of(angles) == "cpu" else 1, angles.shape[1], head_dim]
    tables = paddle.cos(angles), paddle.sin(angles)
    if amplitude != 1.0:
        tables = tuple(table * amplitude for table in tables)
    tables = (table.astype(dtype).unsqueeze(1) for table in tables)
    return tuple(table.expand(shape).contiguous() if shape[1] > 1 else table for table in tables)


@functools.lru_cache(maxsize=16)
def _frequencies(head_dim: int, theta: float, scales: bytes | None, device: str):
    """Return theta^(-2 i / head_dim), times float32 scales; cached on the device, so that it is copied there once."""
    powers = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    inverse = np.float32(1) / np.power(np.float32(theta), powers)
    return paddle.to_tensor(inverse if scales is None else inverse * np.frombuffer(scales, dtype=np.float32))


def apply_rope(x, cos, sin, order: str = "halves"):
    """Rotate x [B, heads, T, D] by tables of an order, of the same shape or of one head."""
    fits = order == "halves" and x.dtype == cos.dtype and x.shape[-1] % NPU_WIDTH == 0 and cos.shape[1] == 1
    if fits and kind_of(x) == "npu" and has_kernel(name_of(x.dtype)):
        return _npu(x, cos, sin)
    if wants_own_gradient(x):
        return Rotation.apply(x, cos, sin, order)
    return x * cos + quarter_turn(x, order) * sin


class Rotation(PyLayer):
    """x * cos + quarter_turn(x, order) * sin with its own gradient, see `wants_own_gradient`.

    A quarter turn is linear, and its transpose is its opposite.
    """

    @staticmethod
    def forward(ctx, x, cos, sin, order: str):
        """Return x rotated by tables of its shape."""
        ctx.save_for_backward(cos, sin)
        ctx.order = order
        return (x * cos).add_(quarter_turn(x, order).multiply_(sin))

    @staticmethod
    def backward(ctx, grad):
        cos, sin = ctx.saved_tensor()
        return (grad * cos).subtract_(quarter_turn(grad * sin, ctx.order))


def rotation_matrices(cos, sin, order: str = "halves"):
    """Return [B, D, D], by which a single position's heads [B, heads, D] are multiplied to rotate them.

    cos, sin: tables of one head and position on the CPU. There one product is faster than the four operations of
    `apply_rope`.
    """
    return paddle.diag_embed(cos[:, 0, 0]) + _turn_matrix(cos.shape[-1], order) * sin[:, 0]


def _npu(x, cos, sin):
    """Rotate by the plugin's operation, which takes [1, tokens, heads, D] and tables [1, tokens, 1, D]."""
    batch, num_heads, length, dim = x.shape
    if length > 1:
        x = x.transpose([0, 2, 1, 3])
    tables = (table.reshape([1, batch * length, 1, dim]) for table in (cos, sin))
    out = run_custom(NPU_OP, x.reshape([1, batch * length, num_heads, dim]), *tables)[0]
    if length == 1:
        return out.reshape([batch, num_heads, 1, dim])
    return out.reshape([batch, length, num_heads, dim]).transpose([0, 2, 1, 3])


@functools.cache
def has_kernel(dtype: str) -> bool:
    """Return whether the plugin has the operation, and it rotates in the right direction."""
    tables = rope_tables(paddle.to_tensor([[0, 1, 2], [0, 5, 7]]), NPU_WIDTH, 1e4, 1, "float32")

    def kernel(x):
        return _npu(x, *(table.astype(dtype) for table in tables))

    def plain(x):
        cos, sin = (table.astype(dtype).astype("float32") for table in tables)
        return x * cos + quarter_turn(x, "halves") * sin

    return agrees(NPU_OP, kernel, plain, [[2, 2, 3, NPU_WIDTH]], dtype)


def quarter_turn(x, order: str):
    """Return [-x2, x1] for the halves [x1, x2] of the last axis, or for its "pairs" [-x2, x1, -x4, x3, ...]."""
    if x.place.is_cpu_place():
        # A product with a matrix of 0 and +-1 is exact, and much faster than slicing on a CPU.
        return paddle.matmul(x, _turn_matrix(x.shape[-1], order))
    if order == "pairs":
        return paddle.stack([-x[..., 1::2], x[..., ::2]], axis=-1).flatten(-2)
    first, second = paddle.split(x, 2, axis=-1)
    return paddle.concat([-second, first], axis=-1)


@functools.lru_cache(maxsize=8)
def _turn_matrix(dim: int, order: str):
    identity, turn = np.eye(dim // 2), [[0, 1], [-1, 0]]
    matrix = np.kron(turn, identity) if order == "halves" else np.kron(identity, turn)
    return paddle.to_tensor(matrix.astype(np.float32), place=paddle.CPUPlace())
