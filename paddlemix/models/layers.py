"""Linear layers and embeddings, and their initialization."""

from __future__ import annotations

import paddle
from paddle import nn

ZERO = nn.initializer.Constant(0.0)


def linear(num_in: int, num_out: int, has_bias: bool) -> nn.Linear:
    """Return a Linear (weight [in, out]) of zeros: values come from a checkpoint or from `initialize`."""
    attribute = paddle.ParamAttr(initializer=ZERO)
    return nn.Linear(num_in, num_out, weight_attr=attribute, bias_attr=attribute if has_bias else False)


def embedding(num_rows: int, width: int) -> nn.Embedding:
    """Return an Embedding of zeros."""
    return nn.Embedding(num_rows, width, weight_attr=paddle.ParamAttr(initializer=ZERO))


def initialize(layer: nn.Layer, std: float = 0.02) -> None:
    """Fill every matrix, convolution and embedding of a layer with normal(0, std); biases stay 0 and norms 1."""
    for parameter in layer.parameters():
        if parameter.ndim >= 2:
            values = paddle.normal(0.0, std, parameter.shape)
            parameter.set_value(values.astype(parameter.dtype))
