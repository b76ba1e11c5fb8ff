"""LoRA layers where paddlenlp's fall short: over weights held as codes, and without needless large results."""

from __future__ import annotations

import math

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddlenlp.peft import LoRAConfig, LoRAModel
from paddlenlp.peft.lora.lora_layers import LoRALinear

from ..models.quantized import QuantizedLinear
from ..ops.dropout import Dropout


class NarrowLoRALinear(LoRALinear):
    """paddlenlp's layer, scaled where it is narrow: the factor lora_A, instead of a result as large as the layer's."""

    def forward(self, x):
        if self.disable_lora or self.merged:
            return super().forward(x)
        return F.linear(x, self.weight, self.bias) + _change(self, x)


class QuantizedLoRALinear(QuantizedLinear):
    """A quantised layer's result + dropout(x) lora_A lora_B * scaling; names and start are those of paddlenlp's layer.

    The factors have paddle's default dtype, which LoRAModel sets while it makes layers.
    """

    def __init__(self, layer: QuantizedLinear, config: LoRAConfig):
        super().__init__(layer.shape, layer.bias, layer.kind, paddle.get_default_dtype())
        assert layer.change is None, "a layer with an adapter beside it"
        self.codes = layer.codes
        self.scaling = config.scaling
        self.lora_dropout = Dropout(config.lora_dropout)
        zeros = nn.initializer.Constant(0.0)
        spread = nn.initializer.KaimingUniform(negative_slope=math.sqrt(5), nonlinearity="leaky_relu")
        self.lora_A = self.create_parameter([layer.shape[0], config.r], default_initializer=spread)
        self.lora_B = self.create_parameter([config.r, layer.shape[1]], default_initializer=zeros)

    def forward(self, x):
        return super().forward(x) + _change(self, x)


def _change(layer, x):
    """Return what a layer's adapter adds for x."""
    return paddle.matmul(paddle.matmul(layer.lora_dropout(x), layer.lora_A * layer.scaling), layer.lora_B)


class AdaptedModel(LoRAModel):
    """paddlenlp's LoRAModel that also puts adapters into quantised layers."""

    def _find_and_replace_module(self, model, module_name, lora_config, enable_lora):
        parent, _, name = module_name.rpartition(".")
        holder = model
        for part in parent.split("."):
            holder = getattr(holder, part)
        layer = getattr(holder, name)
        if isinstance(layer, QuantizedLinear):
            setattr(holder, name, QuantizedLoRALinear(layer, lora_config))
        else:
            super()._find_and_replace_module(model, module_name, lora_config, enable_lora)
            layer = getattr(holder, name)
            if type(layer) is LoRALinear:
                layer.__class__ = NarrowLoRALinear
                if isinstance(layer.lora_dropout, nn.Dropout):
                    layer.lora_dropout = Dropout(lora_config.lora_dropout)

    def mark_only_lora_as_trainable(self) -> None:
        super().mark_only_lora_as_trainable()
        for layer in self.model.sublayers():
            if isinstance(layer, QuantizedLoRALinear):
                layer.lora_A.stop_gradient = layer.lora_B.stop_gradient = False


def quantization_of(model: nn.Layer) -> str | None:
    """Return how a model's layers hold their weights, None for floats."""
    return next((layer.kind for layer in model.sublayers() if isinstance(layer, QuantizedLinear)), None)
