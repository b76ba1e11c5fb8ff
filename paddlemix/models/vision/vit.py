"""The vision transformer (Dosovitskiy et al. 2021) of CLIP and SigLIP, up to the hidden state that LLaVA reads."""

from __future__ import annotations

from functools import partial

import paddle
import paddle.nn.functional as F
from paddle import nn

from ...ops.activation import quick_gelu
from ...ops.attention import attention
from ..config import VisionConfig
from ..layers import ZERO, linear


class VisionTower(nn.Layer):
    """Pixels [N, 3, side, side] to features [N, patches (+ 1 with the class token), hidden_size].

    Has all layers of the checkpoint, so that it can be saved whole, but computes only those up to the selected hidden
    state.
    """

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        zero = paddle.ParamAttr(initializer=ZERO)
        width, size = config.hidden_size, config.patch_size
        self.class_embedding = self.create_parameter([width], attr=zero) if config.has_class_token else None
        bias = zero if config.has_patch_bias else False
        self.patch_embedding = nn.Conv2D(3, width, size, stride=size, weight_attr=zero, bias_attr=bias)
        self.position_embedding = self.create_parameter([config.num_positions, width], attr=zero)
        self.pre_norm = nn.LayerNorm(width, config.layer_norm_eps) if config.has_pre_norm else None
        self.num_used_layers = config.num_used_layers
        self.layers = nn.LayerList([VisionLayer(config) for _ in range(config.num_hidden_layers)])
        self.post_norm = nn.LayerNorm(width, config.layer_norm_eps)

    def forward(self, pixels):
        patches = self.patch_embedding(pixels.astype(self.patch_embedding.weight.dtype))
        # NOTE: `flatten` has no kernel for bfloat16 on Ascend.
        x = patches.reshape([*patches.shape[:2], -1]).transpose([0, 2, 1])
        if self.class_embedding is not None:
            first = self.class_embedding.reshape([1, 1, -1]).expand([x.shape[0], 1, x.shape[2]])
            x = paddle.concat([first.astype(x.dtype), x], axis=1)
        x = x + self.position_embedding
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        for layer in self.layers[: self.num_used_layers]:
            x = layer(x)
        is_cut = self.class_embedding is not None and self.config.select_feature == "patch"
        return x[:, 1:] if is_cut else x

    def encode(self, pixels):
        """Return the features; on a CPU without gradients tile by tile, which is as fast and needs less memory."""
        if not pixels.place.is_cpu_place() or paddle.is_grad_enabled() or len(pixels) < 2:
            return self(pixels)
        return paddle.concat([self(tile) for tile in paddle.split(pixels, len(pixels))])

    @property
    def is_frozen(self) -> bool:
        return all(parameter.stop_gradient for parameter in self.parameters())


class VisionLayer(nn.Layer):
    """Pre-norm attention and feed-forward."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        width = config.hidden_size
        self.norm1 = nn.LayerNorm(width, config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.norm2 = nn.LayerNorm(width, config.layer_norm_eps)
        self.fc1 = linear(width, config.intermediate_size, has_bias=True)
        self.fc2 = linear(config.intermediate_size, width, has_bias=True)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x):
        x = x + self.self_attn(self.norm1(x))
        return x + self.fc2(self.activation(self.fc1(self.norm2(x))))


class VisionAttention(nn.Layer):
    """Attention of every patch to every patch."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.q_proj = linear(width, width, has_bias=True)
        self.k_proj = linear(width, width, has_bias=True)
        self.v_proj = linear(width, width, has_bias=True)
        self.out_proj = linear(width, width, has_bias=True)

    def forward(self, x):
        batch, length, width = x.shape
        heads = [batch, length, self.num_heads, width // self.num_heads]
        query, key, value = (
            project(x).reshape(heads).transpose([0, 2, 1, 3]) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = attention(query, key, value)
        return self.out_proj(out.transpose([0, 2, 1, 3]).reshape([batch, length, width]))


# SigLIP's is the approximation by tanh (Hendrycks and Gimpel 2016).
ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": F.gelu, "gelu_pytorch_tanh": partial(F.gelu, approximate=True)}
