"""The gated activation of LLaMA's feed-forward (Shazeer 2020)."""

from __future__ import annotations

import paddle.nn.functional as F

from .gradients import SwiGLU, wants_own_gradient


def swiglu(gate, up):
    """Return silu(gate) * up."""
    if wants_own_gradient(gate) and not up.stop_gradient:
        return SwiGLU.apply(gate, up)
    return F.silu(gate) * up
