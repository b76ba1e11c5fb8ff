"""A model's decoder made faster for inference, see `language.fused_layer`."""

from __future__ import annotations

import paddle
from paddle import nn

from .language.fused_layer import FusedLayer


def fuse_projections(model: nn.Layer) -> bool:
    """Let fewer, larger operations compute what a model's decoder computes; tell if it was done.

    Its layers are replaced one after the other, so that no weight is held twice for longer. It can be neither trained
    nor saved then. Nothing is changed where a layer has codes or adapters, or feed-forward layers without a gate.
    """
    language = model.language_model
    if language.is_fused or not all(_is_plain(layer) for layer in language.layers):
        return False
    with paddle.no_grad():
        for number in range(len(language.layers)):
            language.layers[number] = FusedLayer(language.config, language.layers[number])
    language.is_fused = True
    return True


def _is_plain(layer: nn.Layer) -> bool:
    attention, mlp = layer.self_attn, layer.mlp
    parts = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    return all(type(part) is nn.Linear for part in (*parts, mlp.gate_proj, mlp.up_proj, mlp.down_proj))
