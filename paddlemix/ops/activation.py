"""The activations of feed-forward layers, with and without a gate."""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F

from .swiglu import swiglu

SMALL = 16_384  # numbers up to which paddle's one operation for both takes less time on a CPU than three faster ones


def activate(x, kind: str):
    """Return silu(x), or gelu(x): exact ("gelu"), or its approximation by tanh ("gelu_tanh")."""
    return F.silu(x) if kind == "silu" else F.gelu(x, approximate=kind == "gelu_tanh")


def gated(gate, up, kind: str):
    """Return activate(gate) * up."""
    return swiglu(gate, up) if kind == "silu" else activate(gate, kind) * up


def gated_pair(x, kind: str):
    """Return what `gated` does of a gate and what it lets through, which stand behind each other in the last axis."""
    if kind == "silu" and x.place.is_cpu_place() and math.prod(x.shape) <= SMALL:
        return paddle._C_ops.swiglu(x, None)
    return gated(*paddle.split(x, 2, axis=-1), kind)
