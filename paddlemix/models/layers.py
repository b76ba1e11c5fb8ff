"""Linear layers and their initialisation."""

from __future__ import annotations

import paddle
from paddle import nn

ZERO = nn.initializer.Constant(0.0)


def linear(num_in: int, num_out: int, has_bias: bool) -> nn.Linear:
    """Make a Linear (weight [in, out]) with zeros: values come from a checkpoint or from `initialize`."""
    attribute = paddle.ParamAttr(initializer=ZERO)
    return nn.Linear(num_in, num_out, weight_attr=attribute, bias_attr=attribute if has_bias else False)


def embedding(num_rows: int, width: int) -> nn.Embedding:
    """Make an Embedding with zeros."""
    return nn.Embedding(num_rows, width, weight_attr=paddle.ParamAttr(initializer=ZERO))


def scaled(x, factor: float):
    """Return x * factor, the factor rounded to x's dtype first: 55.43 is 55.5 in bfloat16, and Gemma was trained so."""
    return x if factor == 1.0 else x * paddle.full([1], factor, dtype=x.dtype)


def initialize(layer: nn.Layer, std: float = 0.02) -> None:
    """Fill every matrix, convolution and embedding below with normal(0, std); biases 0 and norms 1 stay."""
    for parameter in layer.parameters():
        if parameter.ndim >= 2:
            values = paddle.normal(0.0, std, parameter.shape)
            parameter.set_value(values.astype(parameter.dtype))
