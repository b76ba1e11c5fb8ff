"""Operations with a backward pass of their own, for training on CPU in float32.

Automatic differentiation keeps every intermediate result and goes through memory once for each of them. These keep
their inputs only and write the gradient in few passes: over equal shapes, and with sums as products with a vector of
ones, both many times as fast on CPU as Paddle's broadcasts and reductions.
"""

from __future__ import annotations

import paddle
from paddle.autograd import PyLayer


def is_trained(*tensors) -> bool:
    """Tell if a gradient will go through one of these, so that what is made of them must not be overwritten."""
    return paddle.is_grad_enabled() and not all(tensor.stop_gradient for tensor in tensors)


def wants_own_gradient(*tensors) -> bool:
    """Tell if one of these is trained through, and the first is on CPU in float32."""
    return is_trained(*tensors) and tensors[0].dtype == paddle.float32 and tensors[0].place.is_cpu_place()


class RMSNorm(PyLayer):
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis."""

    @staticmethod
    def forward(ctx, x, weight, epsilon: float):
        """Return the norm of x [..., H], weight [H]."""
        result, inverse = scaled_norm(x, weight, epsilon)
        ctx.save_for_backward(x, weight, inverse)
        return result

    @staticmethod
    def backward(ctx, grad):
        x, weight, inverse = ctx.saved_tensor()
        flat, grad = (each.reshape([-1, x.shape[-1]]) for each in (x, grad))
        weight_grad = None
        if not weight.stop_gradient:
            weight_grad = paddle.matmul(inverse, grad * flat, transpose_x=True).reshape(weight.shape)
        if x.stop_gradient:
            return None, weight_grad
        passed = grad * paddle.matmul(inverse, weight.reshape([1, -1]))
        shares = _row_sums(passed * flat) * inverse * inverse / x.shape[-1]
        return passed.subtract_(flat * shares.expand(flat.shape)).reshape(x.shape), weight_grad


class SwiGLU(PyLayer):
    """silu(gate) * up."""

    @staticmethod
    def forward(ctx, gate, up):
        """Return the product of equal shapes."""
        ctx.save_for_backward(gate, up)
        return paddle.nn.functional.silu(gate).multiply_(up)

    @staticmethod
    def backward(ctx, grad):
        gate, up = ctx.saved_tensor()
        share = paddle.nn.functional.sigmoid(gate)
        silu = gate * share
        up_grad = grad * silu
        # The derivative of x s(x) is s + x s (1 - s) = s + silu (1 - s) = silu + s (1 - silu).
        slope = silu.add_(share.subtract_(share * silu))
        return slope.multiply_(grad).multiply_(up), up_grad


class Rotation(PyLayer):
    """x * cos + turn(x) * sin, where turn is linear and its transpose is its opposite."""

    @staticmethod
    def forward(ctx, x, cos, sin, turn):
        """Return x turned by tables of its shape."""
        ctx.save_for_backward(cos, sin)
        ctx.turn = turn
        return (x * cos).add_(turn(x).multiply_(sin))

    @staticmethod
    def backward(ctx, grad):
        cos, sin = ctx.saved_tensor()
        return (grad * cos).subtract_(ctx.turn(grad * sin))


def scaled_norm(x, weight, epsilon: float):
    """Return x / sqrt(mean(x^2) + epsilon) * weight over the last axis, and the inverse root [N, 1]."""
    flat = x.reshape([-1, x.shape[-1]])
    inverse = paddle.rsqrt(_row_sums(flat * flat) / x.shape[-1] + epsilon)
    return paddle.matmul(inverse, weight.reshape([1, -1])).multiply_(flat).reshape(x.shape), inverse


def _row_sums(x):
    """Return the sums of [N, H] as [N, 1]."""
    return paddle.matmul(x, paddle.ones([x.shape[1], 1], dtype=x.dtype))
