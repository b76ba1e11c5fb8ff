"""Frozen linear layers that hold their weights as codes (QLoRA, Dettmers et al. 2023).

Quantised are all linear layers of the decoder's layers. Embeddings, lm_head, norms, vision tower and projector stay.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn
from paddle.autograd import PyLayer

from ..ops.dequantize import dequantize, num_bytes, on_device
from ..ops.quantize import Codes


class FrozenProduct(PyLayer):
    """x W for a weight that is made from its codes whenever it is needed, the backward pass included."""

    @staticmethod
    def forward(ctx, x, codes: Codes):
        ctx.codes, ctx.dtype = codes, x.dtype
        return paddle.matmul(x, dequantize(codes, x.dtype), transpose_y=True)

    @staticmethod
    def backward(ctx, gradient):
        # With automatic mixed precision the gradient comes in the product's dtype, not in x's.
        return paddle.matmul(gradient, dequantize(ctx.codes, gradient.dtype)).astype(ctx.dtype)


class QuantizedLinear(nn.Layer):
    """x W + b without a gradient for W, and where an adapter was loaded with it, + (x left) right.

    The codes are no buffers: mixed precision (O2) would round the float32 scales among them to 16 bits.
    """

    def __init__(self, shape: tuple[int, int], bias, kind: str, dtype):
        """Make a layer without codes. shape: (in, out); bias: a parameter or None; dtype: of an adapter's factors."""
        super().__init__(dtype=dtype)
        self.shape = tuple(shape)
        self.kind = kind
        self.bias = bias
        self.codes: Codes | None = None
        self.change: list | None = None

    def put(self, codes: Codes, change: tuple[np.ndarray, np.ndarray] | None = None) -> None:
        """Bring codes of [out, in] to the device. change: an adapter's left [in, r], scaled, and right [r, out]."""
        assert tuple(codes.shape) == self.shape[::-1], (codes.shape, self.shape)
        self.codes = on_device(codes)
        self.change = None if change is None else [paddle.to_tensor(side).astype(self._dtype) for side in change]

    def forward(self, x):
        result = FrozenProduct.apply(x, self.codes)
        if self.change is not None:
            left, right = (side.astype(x.dtype) for side in self.change)
            result = result + paddle.matmul(paddle.matmul(x, left), right)
        return result if self.bias is None else result + self.bias

    def extra_repr(self) -> str:
        return f"in_features={self.shape[0]}, out_features={self.shape[1]}, {self.kind}"


def quantize_layers(language_model: nn.Layer, kind: str) -> None:
    """Put layers without codes in the places of the linear layers of a decoder's layers."""
    for layer in language_model.layers:
        for name, linear in list(layer.named_sublayers()):
            if isinstance(linear, nn.Linear):
                parent, _, own = name.rpartition(".")
                holder = layer
                for part in parent.split("."):
                    holder = getattr(holder, part)
                weight = linear.weight
                setattr(holder, own, QuantizedLinear(weight.shape, linear.bias, kind, weight.dtype))


def quantized_layers(model: nn.Layer) -> dict[str, QuantizedLinear]:
    """Return name -> layer of those that hold codes."""
    return {name: layer for name, layer in model.named_sublayers() if isinstance(layer, QuantizedLinear)}


def describe(model: nn.Layer) -> str | None:
    """Return a line on the layers that hold codes, None if there are none."""
    layers = list(quantized_layers(model).values())
    if not layers:
        return None
    size = sum(num_bytes(layer.codes) for layer in layers)
    num_weights = sum(layer.shape[0] * layer.shape[1] for layer in layers)
    return (
        f"{len(layers)} linear layers of the decoder are held in {layers[0].kind}: {num_weights:,} weights in "
        f"{size / 1e6:,.1f} MB ({8 * size / num_weights:.2f} bits each), frozen"
    )
