"""The gated activation of LLaMA's feed-forward (Shazeer 2020)."""

from __future__ import annotations

import functools

import paddle
import paddle.nn.functional as F

from .gradients import SwiGLU, is_trained, wants_own_gradient
from .kernels import agrees, kind_of, name_of


def swiglu(gate, up):
    """Return silu(gate) * up, on CUDA and Ascend by paddle's operation for both, which keeps less for the gradient."""
    if kind_of(gate) in ("gpu", "npu") and gate.dtype == up.dtype and has_kernel(kind_of(gate), name_of(gate.dtype)):
        return paddle._C_ops.swiglu(gate, up)
    return plain_swiglu(gate, up)


def plain_swiglu(gate, up):
    """Do it with two operations."""
    if wants_own_gradient(gate, up) and not (gate.stop_gradient or up.stop_gradient):
        return SwiGLU.apply(gate, up)
    return F.silu(gate) * up if is_trained(gate, up) else F.silu(gate).multiply_(up)


@functools.cache
def has_kernel(kind: str, dtype: str) -> bool:
    """Tell if the current device, of this kind, has the operation."""
    return agrees("swiglu", paddle._C_ops.swiglu, plain_swiglu, [[3, 64], [3, 64]], dtype)
