"""The gated activation of LLaMA's feed-forward (Shazeer 2020)."""

from __future__ import annotations

import paddle.nn.functional as F


def swiglu(gate, up):
    """Return silu(gate) * up."""
    return F.silu(gate) * up
