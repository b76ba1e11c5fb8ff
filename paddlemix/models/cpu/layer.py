"""A decoder layer on a CPU, from the layer's own weights, by few operations without Paddle's Python functions."""

from __future__ import annotations

import math
from collections.abc import Callable

from paddle import _C_ops, nn

from ...ops.activation import activate, gated
from ...ops.rms_norm import plain_rms_norm, unit_norm
from ...ops.rope import quarter_turn
from ..config import LanguageConfig
from ..kv_cache import KVCache
from ..language.decoder_layer import DecoderLayer, RMSNorm
from .projection import Projection


class CpuLayer:
    """Computes what a `DecoderLayer` does, without gradients, for rows [N, H] in place of [B, T, H].

    Starting an operation in Paddle's Python functions takes as long as a small operation itself, so that `step`, for
    one position a slot, calls the operations directly.
    """

    def __init__(self, config: LanguageConfig, layer: DecoderLayer):
        attention, mlp = layer.self_attn, layer.mlp
        self.config = config
        self.num_queries, self.num_keys = config.num_attention_heads, config.num_key_value_heads
        self.dim, self.activation = config.head_dim, config.activation
        self.norms = layer.input_layernorm, layer.post_attention_layernorm
        self.steps = tuple(step_norm(norm) for norm in self.norms)
        self.query, self.key, self.value = (Projection(part) for part in attention_inputs(layer))
        self.out, self.up, self.down = Projection(attention.o_proj), Projection(mlp.up_proj), Projection(mlp.down_proj)
        self.gate = None if mlp.gate_proj is None else Projection(mlp.gate_proj)

    @property
    def projections(self) -> list[Projection]:
        found = [self.query, self.key, self.value, self.out, self.gate, self.up, self.down]
        return [each for each in found if each is not None]

    def step(self, x, matrices: tuple, bias, cache: KVCache, number: int, rows):
        """Append one position to each slot, x [slots, H], to layer `number` of the cache; return the layer's output.

        matrices: that rotate queries, and scale them, and keys [slots, D, D]. bias [slots, kv_heads, heads of each,
        capacity]. rows: from `KVCache.next_rows`.
        """
        slots, dim = x.shape[0], self.dim
        apply = Projection.row if slots == 1 else Projection.__call__
        normed = self.steps[0](x)
        query = _C_ops.reshape(apply(self.query, normed), [slots, self.num_queries, dim])
        key = _C_ops.reshape(apply(self.key, normed), [slots, self.num_keys, dim])
        key = _C_ops.matmul(key, matrices[1], False, False)
        cache.write(number, rows, key, _C_ops.reshape(apply(self.value, normed), [slots, self.num_keys, dim]))
        query = _C_ops.matmul(query, matrices[0], False, False)
        query = _C_ops.reshape(query, [slots, self.num_keys, self.num_queries // self.num_keys, dim])
        scores = _C_ops.add_(_C_ops.matmul(query, cache.keys[number], False, True), bias)
        heads = _C_ops.matmul(_C_ops.softmax_(scores, -1), cache.values[number], False, False)
        x = _C_ops.add_(apply(self.out, _C_ops.reshape(heads, [slots, self.num_queries * dim])), x)
        normed = self.steps[1](x)
        if self.gate is None:
            widened = activate(apply(self.up, normed), self.activation)
        elif self.activation == "silu":
            widened = _C_ops.swiglu(apply(self.gate, normed), apply(self.up, normed))
        else:
            widened = gated(apply(self.gate, normed), apply(self.up, normed), self.activation)
        return _C_ops.add_(apply(self.down, widened), x)

    def keys_values(self, normed, tables: tuple) -> tuple:
        """Return keys and values [1, kv_heads, N, D] for the normed input. tables: cos and sin of the keys' shape."""
        key = rotated(self._heads(self.key(normed), self.num_keys), tables, self.config.rope_order)
        return key, self._heads(self.value(normed), self.num_keys)

    def queries(self, normed, tables: tuple):
        """Return queries [1, heads, N, D] for the normed input, scaled if the tables are."""
        return rotated(self._heads(self.query(normed), self.num_queries), tables, self.config.rope_order)

    def normed(self, number: int, x):
        """Return the output of the layer's first or second norm."""
        norm = self.norms[number]
        return plain_rms_norm(x, norm.weight, norm.epsilon, norm.offset) if isinstance(norm, RMSNorm) else norm(x)

    def finish(self, x, heads):
        """Return the layer's output for its input x [N, H] and the attention's output [1, heads, N, D]."""
        heads = _C_ops.transpose(heads, [0, 2, 1, 3])
        x = self.out(_C_ops.reshape(heads, [x.shape[0], self.num_queries * self.dim])).add_(x)
        normed = self.normed(1, x)
        if self.gate is None:
            widened = activate(self.up(normed), self.activation)
        else:
            widened = gated(self.gate(normed), self.up(normed), self.activation)
        return self.down(widened).add_(x)

    def _heads(self, x, num_heads: int):
        return _C_ops.transpose(_C_ops.reshape(x, [1, x.shape[0], num_heads, self.dim]), [0, 2, 1, 3])


def attention_inputs(layer: DecoderLayer) -> tuple[nn.Layer, nn.Layer, nn.Layer]:
    return layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj


def rotated(x, tables: tuple, order: str):
    """Rotate x by tables of its shape, in place."""
    turned = quarter_turn(x, order).multiply_(tables[1])
    return x.multiply_(tables[0]).add_(turned)


def step_norm(norm: nn.Layer) -> Callable:
    """Return a norm of a few rows [N, H]: RMSNorm in three operations."""
    if not isinstance(norm, RMSNorm):
        return norm
    weight, epsilon = norm.weight, norm.epsilon
    root = math.sqrt(weight.shape[0])  # which `unit_norm` leaves out

    def normalize(x):
        scales = _C_ops.scale(weight, root, norm.offset * root, True)
        return _C_ops.multiply_(unit_norm(x, epsilon), scales)

    return normalize
