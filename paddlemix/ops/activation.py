"""The activations of feed-forward layers, with and without a gate."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from .swiglu import swiglu, swiglu_pair


def activate(x, kind: str):
    """Return silu(x), or gelu(x): exact ("gelu"), or its approximation by tanh ("gelu_tanh")."""
    return F.silu(x) if kind == "silu" else F.gelu(x, approximate=kind == "gelu_tanh")


def gated(gate, up, kind: str):
    """Return activate(gate) * up."""
    return swiglu(gate, up) if kind == "silu" else activate(gate, kind) * up


def gated_pair(x, kind: str):
    """Return what `gated` does of a gate and what it lets through, which stand behind each other in the last axis."""
    if kind == "silu":
        return swiglu_pair(x)
    gate, up = paddle.split(x, 2, axis=-1)
    return gated(gate, up, kind)
