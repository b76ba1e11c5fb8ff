"""Projections of one input as one product each, for inference: fewer, larger operations read the same weights."""

from __future__ import annotations

import paddle
from paddle import nn


def fuse_projections(model: nn.Layer) -> int:
    """Put q, k and v, and gate and up, of every decoder layer together; return how many layers became part of others.

    The parts are freed one layer after the other, so that no weight is held twice for longer. Layers with codes or
    adapters stay as they are. The model then computes the same, but can be neither trained by parts nor saved.
    """
    num_fused = 0
    for layer in model.language_model.layers:
        for holder, names, fused in (
            (layer.self_attn, ("q_proj", "k_proj", "v_proj"), "qkv_proj"),
            (layer.mlp, ("gate_proj", "up_proj"), "gate_up_proj"),
        ):
            parts = [getattr(holder, name) for name in names]  # without a gate one of them is None
            if not all(type(part) is nn.Linear for part in parts):
                continue
            setattr(holder, fused, _joined(parts))
            for name in names:
                setattr(holder, name, None)
            num_fused += len(parts)
    return num_fused


def is_fused(model: nn.Layer) -> bool:
    """Tell if `fuse_projections` has changed a model."""
    fused = [(layer.self_attn.qkv_proj, layer.mlp.gate_up_proj) for layer in model.language_model.layers]
    return any(part is not None for parts in fused for part in parts)


def _joined(parts: list[nn.Linear]) -> nn.Linear:
    """Return one layer for parts that take the same input; all or none of them have a bias."""
    weight = paddle.concat([part.weight for part in parts], axis=1)
    with paddle.LazyGuard():  # so that no weights are made that are thrown away
        layer = nn.Linear(*weight.shape, bias_attr=None if parts[0].bias is not None else False)
    layer.weight = _parameter(weight)
    if parts[0].bias is not None:
        layer.bias = _parameter(paddle.concat([part.bias for part in parts]))
    return layer


def _parameter(values):
    parameter = paddle.base.framework.EagerParamBase.from_tensor(values)
    parameter.stop_gradient = True
    return parameter
