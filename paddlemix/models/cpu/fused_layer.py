"""A decoder layer for inference: fewer, larger operations read the same weights.

While one token a row is read on a CPU, starting an operation takes as long as a small one itself. So the projections
of one input are one product, and in float32 on a CPU the norms' scales and that of the scores stand in the weights.
"""

from __future__ import annotations

import math

import paddle
from paddle import _C_ops, nn

from ...device import num_threads
from ...ops.activation import gated_pair
from ...ops.rms_norm import unit_norm
from ..config import LanguageConfig
from ..language.decoder_layer import DecoderLayer, attend, attend_cached, clipped
from .row_product import num_blocks, row_product


class FusedLayer(nn.Layer):
    """What a `DecoderLayer` with gated feed-forward and plain projections computes, made of it; no training.

    What such a layer takes as ropes is here a function that turns queries and keys, [B, heads + kv_heads, T, D].
    is_quick: `step` can be used.
    """

    def __init__(self, config: LanguageConfig, layer: DecoderLayer):
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.config = config
        self.scale = config.softmax_scale
        self.norms = nn.LayerList([layer.input_layernorm, layer.post_attention_layernorm])
        self.qkv = Projection([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out = Projection([attention.o_proj])
        self.gate_up = Projection([mlp.gate_proj, mlp.up_proj])
        self.down = Projection([mlp.down_proj])
        weight = self.qkv.weight
        is_cpu_float = weight.dtype == paddle.float32 and weight.place.is_cpu_place()
        self.is_quick = is_cpu_float and config.norm == "rms" and config.clip_qkv is None
        if self.is_quick:
            self._fold()

    def _fold(self) -> None:
        """Let the weights behind the norms do their scaling, and those of the queries that of the scores."""
        config = self.config
        for norm, projection in zip(self.norms, (self.qkv, self.gate_up), strict=True):
            scales = (norm.weight + norm.offset) * math.sqrt(config.hidden_size)  # `unit_norm` leaves out the root
            projection.weight.set_value(projection.weight * scales.unsqueeze(1))
        self.norms = None
        scale = 1.0 / math.sqrt(config.head_dim) if self.scale is None else self.scale
        num_queries = config.num_attention_heads * config.head_dim
        num_others = self.qkv.weight.shape[1] - num_queries
        columns = paddle.concat([paddle.full([num_queries], scale), paddle.ones([num_others])])
        for part in (self.qkv.weight, self.qkv.bias):
            if part is not None:
                part.set_value(part * columns)
        self.scale = 1.0

    def forward(self, x, turn, bias, key_bias):
        heads = self.project(x, turn)
        return self.finish(x, attend(*heads, bias, key_bias, self.scale))

    def forward_cached(self, x, turn, bias, key_bias, cache, number, rows):
        heads = self.project(x, turn)
        return self.finish(x, attend_cached(*heads, bias, key_bias, self.scale, cache, number, rows))

    def _normalise(self, number: int, x):
        return self.norms[number](x) if self.norms is not None else unit_norm(x, self.config.rms_norm_eps)

    def project(self, x, turn) -> tuple:
        """Return query, key and value [B, heads or kv_heads, T, D]."""
        config = self.config
        num_queries, num_keys = config.num_attention_heads, config.num_key_value_heads
        joined = clipped(self.qkv(self._normalise(0, x)), config.clip_qkv)
        heads = joined.reshape([*x.shape[:2], -1, config.head_dim]).transpose([0, 2, 1, 3])
        turned, value = paddle.split(heads, [num_queries + num_keys, num_keys], axis=1)
        query, key = paddle.split(turned if turn is None else turn(turned), [num_queries, num_keys], axis=1)
        return query, key, value

    def finish(self, x, heads):
        """Return the layer's output for its input x [B, T, H] and what was attended to, [B, heads, T, D]."""
        x = self.out(heads.transpose([0, 2, 1, 3]).reshape([*x.shape[:2], -1])).add_(x)
        return self.down(gated_pair(self.gate_up(self._normalise(1, x)), self.config.activation)).add_(x)

    def step(self, x, turn, bias, cache, number, rows):
        """Do what `forward_cached` does for one token a row, x [B, H]; bias [B, kv_heads, heads of each, capacity].

        Paddle's functions are left out: what they check on the way to these operations takes as long as the operations.
        """
        config = self.config
        batch, dim = x.shape[0], config.head_dim
        num_queries, num_keys = config.num_attention_heads, config.num_key_value_heads
        joined = self.qkv.few(unit_norm(x, config.rms_norm_eps))
        heads = _C_ops.reshape(joined, [batch, num_queries + 2 * num_keys, 1, dim])
        turned, value = _C_ops.split(heads, [num_queries + num_keys, num_keys], 1)
        query, key = _C_ops.split(turned if turn is None else turn(turned), [num_queries, num_keys], 1)
        cache.write(number, rows, key, value)
        query = _C_ops.reshape(query, [batch, num_keys, num_queries // num_keys, dim])
        scores = _C_ops.add_(_C_ops.matmul(query, cache.keys[number], False, True), bias)
        heads = _C_ops.matmul(_C_ops.softmax_(scores, -1), cache.values[number], False, False)
        x = _C_ops.add_(self.out.few(_C_ops.reshape(heads, [batch, num_queries * dim])), x)
        widened = gated_pair(self.gate_up.few(unit_norm(x, config.rms_norm_eps)), config.activation)
        return _C_ops.add_(self.down.few(widened), x)


class Projection(nn.Layer):
    """Linear layers that take the same input as one; all or none of them have a bias."""

    def __init__(self, parts: list[nn.Linear]):
        super().__init__()
        self.weight, self.bias = parts[0].weight, parts[0].bias
        if len(parts) > 1:
            self.weight = _joined([part.weight for part in parts])
            self.bias = None if parts[0].bias is None else _joined([part.bias for part in parts])
        self.num_blocks = num_blocks(self.weight, num_threads())

    def forward(self, x):
        product = paddle.matmul(x, self.weight)
        return product if self.bias is None else product + self.bias

    def few(self, rows):
        """Do it for a few rows [B, K]."""
        if rows.shape[0] == 1:
            product = row_product(rows, self.weight, self.num_blocks)
        else:
            product = _C_ops.matmul(rows, self.weight, False, False)
        return product if self.bias is None else _C_ops.add_(product, self.bias)


def _joined(parts: list):
    values = paddle.concat(parts, axis=-1)
    parameter = paddle.base.framework.EagerParamBase.from_tensor(values)
    parameter.stop_gradient = True
    return parameter


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
