"""A decoder layer for inference that reads the same weights in fewer, larger operations.

When a CPU reads one token a row, starting an operation takes as long as a small operation itself. So the projections of
one input are one product, and in float32 on a CPU the norms' weights and the scale of the scores are multiplied into
the matrices.
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

SMALL = 1 << 18  # elements of a matrix up to which more threads do not pay
MAX_BLOCKS = 16


def is_fusible(layer: nn.Layer) -> bool:
    """Return whether a layer has plain projections and a gated feed-forward part."""
    attention, mlp = layer.self_attn, layer.mlp
    parts = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    return all(type(part) is nn.Linear for part in (*parts, mlp.gate_proj, mlp.up_proj, mlp.down_proj))


class FusedLayer(nn.Layer):
    """Computes what a fusible `DecoderLayer` does, from its weights. Cannot be trained.

    Takes a function that rotates queries and keys, [B, heads + kv_heads, T, D], in place of the layer's tables.
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
        """Multiply the norms' weights and the scale of the scores into the matrices after them."""
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

    def forward(self, x, rotate, bias, key_bias):
        heads = self.project(x, rotate)
        return self.finish(x, attend(*heads, bias, key_bias, self.scale))

    def forward_cached(self, x, rotate, bias, key_bias, cache, number, rows):
        heads = self.project(x, rotate)
        return self.finish(x, attend_cached(*heads, bias, key_bias, self.scale, cache, number, rows))

    def _normalize(self, number: int, x):
        return self.norms[number](x) if self.norms is not None else unit_norm(x, self.config.rms_norm_eps)

    def project(self, x, rotate) -> tuple:
        """Return query, key and value [B, heads or kv_heads, T, D]."""
        config = self.config
        num_queries, num_keys = config.num_attention_heads, config.num_key_value_heads
        joined = clipped(self.qkv(self._normalize(0, x)), config.clip_qkv)
        heads = joined.reshape([*x.shape[:2], -1, config.head_dim]).transpose([0, 2, 1, 3])
        unrotated, value = paddle.split(heads, [num_queries + num_keys, num_keys], axis=1)
        query, key = paddle.split(unrotated if rotate is None else rotate(unrotated), [num_queries, num_keys], axis=1)
        return query, key, value

    def finish(self, x, heads):
        """Return the layer's output for its input x [B, T, H] and the attention's output [B, heads, T, D]."""
        x = self.out(heads.transpose([0, 2, 1, 3]).reshape([*x.shape[:2], -1])).add_(x)
        return self.down(gated_pair(self.gate_up(self._normalize(1, x)), self.config.activation)).add_(x)

    def step(self, x, rotate, bias, cache, number, rows):
        """Do what `forward_cached` does for one token a row, x [B, H]; bias [B, kv_heads, heads of each, capacity].

        Calls Paddle's operations without its Python functions, whose checks take as long as the operations.
        """
        config = self.config
        batch, dim = x.shape[0], config.head_dim
        num_queries, num_keys = config.num_attention_heads, config.num_key_value_heads
        joined = self.qkv.apply_rows(unit_norm(x, config.rms_norm_eps))
        heads = _C_ops.reshape(joined, [batch, num_queries + 2 * num_keys, 1, dim])
        unrotated, value = _C_ops.split(heads, [num_queries + num_keys, num_keys], 1)
        query, key = _C_ops.split(unrotated if rotate is None else rotate(unrotated), [num_queries, num_keys], 1)
        cache.write(number, rows, key, value)
        query = _C_ops.reshape(query, [batch, num_keys, num_queries // num_keys, dim])
        scores = _C_ops.add_(_C_ops.matmul(query, cache.keys[number], False, True), bias)
        heads = _C_ops.matmul(_C_ops.softmax_(scores, -1), cache.values[number], False, False)
        x = _C_ops.add_(self.out.apply_rows(_C_ops.reshape(heads, [batch, num_queries * dim])), x)
        widened = gated_pair(self.gate_up.apply_rows(unit_norm(x, config.rms_norm_eps)), config.activation)
        return _C_ops.add_(self.down.apply_rows(widened), x)


class Projection(nn.Layer):
    """Linear layers with the same input as one; all of them have a bias, or none has."""

    def __init__(self, parts: list[nn.Linear]):
        super().__init__()
        self.weight, self.bias = parts[0].weight, parts[0].bias
        if len(parts) > 1:
            self.weight = _concatenated([part.weight for part in parts])
            self.bias = None if parts[0].bias is None else _concatenated([part.bias for part in parts])
        self.num_blocks = num_blocks(self.weight, num_threads())

    def forward(self, x):
        product = paddle.matmul(x, self.weight)
        return product if self.bias is None else product + self.bias

    def apply_rows(self, rows):
        """Return the same for a few rows [B, K]."""
        if rows.shape[0] == 1:
            product = row_product(rows, self.weight, self.num_blocks)
        else:
            product = _C_ops.matmul(rows, self.weight, False, False)
        return product if self.bias is None else _C_ops.add_(product, self.bias)


def _concatenated(parts: list):
    values = paddle.concat(parts, axis=-1)
    parameter = paddle.base.framework.EagerParamBase.from_tensor(values)
    parameter.stop_gradient = True
    return parameter


def num_blocks(weight, num_threads: int) -> int:
    """Return how many blocks of rows `row_product` should split a matrix into: 1 where splitting does not pay."""
    if weight.dtype != paddle.float32 or not weight.place.is_cpu_place() or math.prod(weight.shape) <= SMALL:
        return 1
    return max(number for number in range(1, min(num_threads, MAX_BLOCKS) + 1) if weight.shape[0] % number == 0)


def row_product(row, weight, blocks: int):
    """Return row [1, K] times weight [K, N], as the sum of the products with `blocks` blocks of its rows.

    The MKL of paddle's CPU builds computes a product of a single row with one thread, which reads memory at about half
    the speed of two, but a batch of products with all threads. The blocks are such a batch, without a copy.
    """
    if blocks == 1:
        return _C_ops.matmul(row, weight, False, False)
    num_in, num_out = weight.shape
    row = _C_ops.reshape(row, [blocks, 1, num_in // blocks])
    products = _C_ops.matmul(row, _C_ops.reshape(weight, [blocks, num_in // blocks, num_out]), False, False)
    return _C_ops.sum(products, [0], None, False)


def transposed_row_product(row, weight, blocks: int):
    """Return row [1, K] times the transpose of weight [N, K], as the concatenated products with blocks of its rows."""
    if blocks == 1:
        return _C_ops.matmul(row, weight, False, True)
    num_out, num_in = weight.shape
    rows = _C_ops.expand(row, [blocks, 1, num_in])  # with one row for all blocks, MKL would use one thread again
    products = _C_ops.matmul(rows, _C_ops.reshape(weight, [blocks, num_out // blocks, num_in]), False, True)
    return _C_ops.reshape(products, [1, num_out])
