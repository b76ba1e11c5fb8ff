"""Frozen linear layers with quantized weights (QLoRA, Dettmers et al. 2023).

All linear layers of the decoder's layers are quantized, but not embeddings, lm_head, norms, vision tower and projector.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn
from paddle.autograd import PyLayer

from ..ops.dequantize import dequantize, num_bytes, on_device
from ..ops.kernel_checks import is_trained
from ..ops.quantize import Codes
from ..ops.row_products import product_with_codes


class FrozenProduct(PyLayer):
    """x W with a weight that is dequantized whenever it is needed, in the backward pass too."""

    @staticmethod
    def forward(ctx, x, codes: Codes):
        ctx.codes, ctx.dtype = codes, x.dtype
        return paddle.matmul(x, dequantize(codes, x.dtype), transpose_y=True)

    @staticmethod
    def backward(ctx, gradient):
        # With automatic mixed precision the gradient has the product's dtype, not x's.
        return paddle.matmul(gradient, dequantize(ctx.codes, gradient.dtype)).astype(ctx.dtype)


class QuantizedLinear(nn.Layer):
    """x W + b without a gradient for W; + (x left) right if an adapter was loaded with it.

    The codes are not buffers: mixed precision (O2) would round their float32 scales to 16 bits.
    """

    def __init__(self, shape: tuple[int, int], bias, kind: str, dtype):
        """Create a layer without codes. shape: (in, out); bias: a parameter or None; dtype: of an adapter's factors."""
        super().__init__(dtype=dtype)
        self.shape = tuple(shape)
        self.kind = kind
        self.bias = bias
        self.codes: Codes | None = None
        self.adapter: list | None = None

    def set_codes(self, codes: Codes, adapter: tuple[np.ndarray, np.ndarray] | None = None) -> None:
        """Copy codes of [out, in] to the device. adapter: left factor [in, r], scaled, and right factor [r, out]."""
        assert tuple(codes.shape) == self.shape[::-1], (codes.shape, self.shape)
        self.codes = on_device(codes)
        self.adapter = None if adapter is None else [paddle.to_tensor(side).astype(self._dtype) for side in adapter]

    def forward(self, x):
        result = FrozenProduct.apply(x, self.codes) if is_trained(x) else product_with_codes(x, self.codes)
        if self.adapter is not None:
            left, right = (side.astype(x.dtype) for side in self.adapter)
            result = result + paddle.matmul(paddle.matmul(x, left), right)
        return result if self.bias is None else result + self.bias

    def extra_repr(self) -> str:
        return f"in_features={self.shape[0]}, out_features={self.shape[1]}, {self.kind}"


def quantize_layers(language_model: nn.Layer, kind: str) -> None:
    """Replace the linear layers of a decoder's layers by quantized ones without codes."""
    for parent in language_model.layers.sublayers():
        for name, linear in list(parent.named_children()):
            if isinstance(linear, nn.Linear):
                weight = linear.weight
                setattr(parent, name, QuantizedLinear(weight.shape, linear.bias, kind, weight.dtype))


def quantized_layers(model: nn.Layer) -> dict[str, QuantizedLinear]:
    """Return the quantized layers by name."""
    return {name: layer for name, layer in model.named_sublayers() if isinstance(layer, QuantizedLinear)}


def describe(model: nn.Layer) -> str | None:
    """Return a line about the quantized layers, or None if there are none."""
    layers = list(quantized_layers(model).values())
    if not layers:
        return None
    size = sum(num_bytes(layer.codes) for layer in layers)
    num_weights = sum(layer.shape[0] * layer.shape[1] for layer in layers)
    return (
        f"{len(layers)} linear layers of the decoder are stored as {layers[0].kind}: {num_weights:,} weights in "
        f"{size / 1e6:,.1f} MB ({8 * size / num_weights:.2f} bits each), frozen"
    )
