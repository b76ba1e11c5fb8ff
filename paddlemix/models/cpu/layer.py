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
from .projection import Projection, few_rows
from .threads import limit_threads


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
        self.qkv = [Projection(part) for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
        self.gate_up = [Projection(part) for part in (mlp.gate_proj, mlp.up_proj) if part is not None]
        self.out, self.down = Projection(attention.o_proj), Projection(mlp.down_proj)

    @property
    def projections(self) -> list[Projection]:
        return [*self.qkv, self.out, *self.gate_up, self.down]

    def step(self, x, matrices: tuple, attention: Callable, cache: KVCache, number: int, rows, num_threads: int):
        """Append one position to each slot, x [slots, H], to layer `number` of the cache; return the layer's output.

        matrices: that rotate queries, and scale them, and keys [slots, D, D]. attention: of queries [slots, kv_heads,
        heads of each, D] to the keys and values of all slots. rows: from `KVCache.next_rows`. num_threads: of the
        attention's products, 0 for all.
        """
        slots, dim = x.shape[0], self.dim
        query, key, value = few_rows(self.qkv, self.steps[0](x))
        num_before = limit_threads(num_threads)
        query = _C_ops.matmul(_C_ops.reshape(query, [slots, self.num_queries, dim]), matrices[0], False, False)
        key = _C_ops.matmul(_C_ops.reshape(key, [slots, self.num_keys, dim]), matrices[1], False, False)
        cache.write(number, rows, key, _C_ops.reshape(value, [slots, self.num_keys, dim]))
        query = _C_ops.reshape(query, [slots, self.num_keys, self.num_queries // self.num_keys, dim])
        heads = attention(query, cache.keys[number], cache.values[number])
        limit_threads(num_before)
        x = _C_ops.add_(self.out.few(_C_ops.reshape(heads, [slots, self.num_queries * dim])), x)
        activated = self._activated(*few_rows(self.gate_up, self.steps[1](x)))
        return _C_ops.add_(self.down.few(activated), x)

    def _activated(self, *widened):
        """Return the activation of the outputs of gate and up for a few rows, or of up alone."""
        if len(widened) == 1:
            return activate(widened[0], self.activation)
        return _C_ops.swiglu(*widened) if self.activation == "silu" else gated(*widened, self.activation)

    def keys_values(self, normed, tables: tuple) -> tuple:
        """Return keys and values [1, kv_heads, N, D] for the normed input. tables: cos and sin of the keys' shape."""
        key = rotated(self._heads(self.qkv[1](normed), self.num_keys), tables, self.config.rope_order)
        return key, self._heads(self.qkv[2](normed), self.num_keys)

    def queries(self, normed, tables: tuple):
        """Return queries [1, heads, N, D] for the normed input, scaled if the tables are."""
        return rotated(self._heads(self.qkv[0](normed), self.num_queries), tables, self.config.rope_order)

    def normed(self, number: int, x):
        """Return the output of the layer's first or second norm."""
        norm = self.norms[number]
        return plain_rms_norm(x, norm.weight, norm.epsilon, norm.offset) if isinstance(norm, RMSNorm) else norm(x)

    def finish(self, x, heads):
        """Return the layer's output for its input x [N, H] and the attention's output [1, heads, N, D]."""
        heads = _C_ops.transpose(heads, [0, 2, 1, 3])
        x = self.out(_C_ops.reshape(heads, [x.shape[0], self.num_queries * self.dim])).add_(x)
        normed = self.normed(1, x)
        widened = [part(normed) for part in self.gate_up]
        activated = gated(*widened, self.activation) if len(widened) > 1 else activate(*widened, self.activation)
        return self.down(activated).add_(x)

    def _heads(self, x, num_heads: int):
        return _C_ops.transpose(_C_ops.reshape(x, [1, x.shape[0], num_heads, self.dim]), [0, 2, 1, 3])


def masked_attention(bias, query, keys, values):
    """Return the attention of queries [slots, kv_heads, heads of each, D] to all places, with a bias on the scores."""
    scores = _C_ops.add_(_C_ops.matmul(query, keys, False, True), bias)
    return _C_ops.matmul(_C_ops.softmax_(scores, -1), values, False, False)


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
