"""The projector: from the vision tower's width to the language model's."""

from __future__ import annotations

from paddle import nn

from .layers import linear
from .projector_type import projector_blocks


def build_projector(projector_type: str, num_in: int, num_out: int) -> nn.Sequential:
    """Return a projector of type `linear`, `mlpNx_gelu`, `mlpNx_resMx_gelu` or `identity` (an empty Sequential).

    Layers have the same indices as in LLaVA-NeXT's nn.Sequential, see `projector_type.projector_layers`.
    """
    num_linear, num_residual = projector_blocks(projector_type)
    parts: list[nn.Layer] = []
    for depth in range(num_linear):
        parts += [nn.GELU()] if depth else []
        parts.append(linear(num_out if depth else num_in, num_out, has_bias=True))
    return nn.Sequential(*parts, *(ResidualBlock(num_out) for _ in range(num_residual)))


class ResidualBlock(nn.Layer):
    """A norm, and an MLP of two layers that is added to the norm's output (LLaVA-NeXT's `SimpleResBlock`)."""

    def __init__(self, width: int):
        super().__init__()
        self.pre_norm = nn.LayerNorm(width, 1e-5)
        self.proj = nn.Sequential(linear(width, width, has_bias=True), nn.GELU(), linear(width, width, has_bias=True))

    def forward(self, x):
        x = self.pre_norm(x)
        return x + self.proj(x)
