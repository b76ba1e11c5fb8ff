"""From the tower's width to the language model's."""

from __future__ import annotations

from paddle import nn

from .config import projector_depth
from .layers import linear


def build_projector(projector_type: str, num_in: int, num_out: int) -> nn.Sequential:
    """Make `linear`, `mlpNx_gelu` or `identity` (an empty Sequential). Linear layers stand at even places."""
    parts: list[nn.Layer] = []
    for depth in range(projector_depth(projector_type)):
        parts += [nn.GELU()] if depth else []
        parts.append(linear(num_out if depth else num_in, num_out, has_bias=True))
    return nn.Sequential(*parts)
