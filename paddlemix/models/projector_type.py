"""Projector types by name: `linear`, `identity`, `mlpNx_gelu` and `mlpNx_resMx_gelu`."""

from __future__ import annotations

import re

PROJECTOR_NAMES = "linear, identity, mlpNx_gelu (for example mlp2x_gelu) or mlpNx_resMx_gelu (mlp2x_res2x_gelu)"
MLP = re.compile(r"mlp0*([1-9]\d*)x_(?:res0*([1-9]\d*)x_)?gelu", re.ASCII)
MAX_LAYERS = 64  # linear layers or blocks: a larger number is a mistake
LINEAR, NORM = "linear", "norm"
# Name and kind of the layers with weights in a residual block.
RESIDUAL_BLOCK = (("pre_norm", NORM), ("proj.0", LINEAR), ("proj.2", LINEAR))


def projector_blocks(projector_type: str) -> tuple[int, int]:
    """Return the numbers of linear layers and of residual blocks after them.

    Raises ValueError for an unknown type.
    """
    if projector_type in ("identity", "linear"):
        return int(projector_type == "linear"), 0
    match = MLP.fullmatch(projector_type)
    if match is None:
        raise ValueError(f"unknown projector type {projector_type!r}: expected {PROJECTOR_NAMES}")
    if max(len(match[1]), len(match[2] or "")) > 3 or max(int(match[1]), int(match[2] or 0)) > MAX_LAYERS:
        raise ValueError(f"projector type {projector_type[:40]!r} has more than {MAX_LAYERS} layers")
    return int(match[1]), int(match[2] or 0)


def projector_layers(projector_type: str) -> list[tuple[str, str]]:
    """Return name and kind (LINEAR or NORM) of each layer with weights, in order. Only the first changes the width.

    The names are those of LLaVA-NeXT's nn.Sequential (`llava/model/multimodal_projector/builder.py`): linear layers at
    0, 2, 4, ... with GELU between them, then residual blocks at the following indices, each with `pre_norm`, `proj.0`
    and `proj.2`. Raises ValueError for an unknown type.
    """
    num_linear, num_residual = projector_blocks(projector_type)
    layers = [(str(2 * number), LINEAR) for number in range(num_linear)]
    for place in range(2 * num_linear - 1, 2 * num_linear - 1 + num_residual):
        layers += [(f"{place}.{name}", kind) for name, kind in RESIDUAL_BLOCK]
    return layers
