"""The activations of feed-forward layers, with a gate (Shazeer 2020) and without."""

from __future__ import annotations

import functools
import math

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from .kernel_checks import agrees, is_trained, kind_of, name_of, wants_own_gradient
from .vector_activation import silu_of_pair, silu_times, silu_times_grads, times_sigmoid
from .vector_math import is_usable

SMALL = 16_384  # elements up to which paddle's fused operation is faster on a CPU than separate ones


def activate(x, kind: str):
    """Return silu(x), or gelu(x): exact ("gelu"), or its approximation by tanh ("gelu_tanh")."""
    return F.silu(x) if kind == "silu" else F.gelu(x, approximate=kind == "gelu_tanh")


def gated(gate, up, kind: str):
    """Return activate(gate) * up."""
    return swiglu(gate, up) if kind == "silu" else activate(gate, kind) * up


def gated_pair(x, kind: str):
    """Return what `gated` does, for gate and up concatenated along the last axis."""
    if kind == "silu" and x.place.is_cpu_place() and not is_trained(x):
        if math.prod(x.shape) <= SMALL:
            return paddle._C_ops.swiglu(x, None)
        if is_usable(x):
            return silu_of_pair(x)
    return gated(*paddle.split(x, 2, axis=-1), kind)


def swiglu(gate, up):
    """Return silu(gate) * up. Paddle's fused operation, used on CUDA and Ascend, stores less for the gradient."""
    kind = kind_of(gate)
    if kind in ("gpu", "npu") and gate.dtype == up.dtype and has_kernel(kind, name_of(gate.dtype)):
        return paddle._C_ops.swiglu(gate, up)
    return plain_swiglu(gate, up)


def plain_swiglu(gate, up):
    """Return silu(gate) * up, unfused."""
    if wants_own_gradient(gate, up) and not (gate.stop_gradient or up.stop_gradient):
        return SwiGLU.apply(gate, up)
    return F.silu(gate) * up if is_trained(gate, up) else _silu_times(gate, up)


def quick_gelu(x):
    """Return x * sigmoid(1.702 x), CLIP's activation. On a CPU paddle's silu is twice as fast as its sigmoid."""
    if not is_trained(x) and x.size > SMALL and is_usable(x):
        return times_sigmoid(x, 1.702)
    if x.place.is_cpu_place():
        return F.silu(1.702 * x) * (1 / 1.702)
    return x * F.sigmoid(1.702 * x)


def _silu_times(gate, up):
    """Return silu(gate) * up without a gradient."""
    if gate.shape == up.shape and gate.size > SMALL and is_usable(gate, up):
        return silu_times(gate, up)
    return F.silu(gate).multiply_(up)


class SwiGLU(PyLayer):
    """silu(gate) * up with its own gradient, see `wants_own_gradient`."""

    @staticmethod
    def forward(ctx, gate, up):
        """Return the product of two tensors of equal shape."""
        ctx.save_for_backward(gate, up)
        return _silu_times(gate, up)

    @staticmethod
    def backward(ctx, grad):
        gate, up = ctx.saved_tensor()
        if gate.size > SMALL and is_usable(gate, up, grad):
            return silu_times_grads(gate, up, grad)
        sigmoid = F.sigmoid(gate)
        silu = gate * sigmoid
        up_grad = grad * silu
        # The derivative of x s(x) is s + x s (1 - s) = s + silu (1 - s) = silu + s (1 - silu).
        slope = silu.add_(sigmoid.subtract_(sigmoid * silu))
        return slope.multiply_(grad).multiply_(up), up_grad


@functools.cache
def has_kernel(kind: str, dtype: str) -> bool:
    """Return whether the current device, of this kind, has a correct fused SwiGLU."""
    return agrees("swiglu", paddle._C_ops.swiglu, plain_swiglu, [[3, 64], [3, 64]], dtype)
