"""Which keys the queries of each decoder layer see: causal masks, sliding windows, padding, and the biases of ALiBi."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import paddle

from ...ops.attention import kernel_mask, shared_mask
from ...ops.packed_attention import Runs
from ...ops.plain_attention import MASKED, join_biases, window_bias
from ..config import LanguageConfig
from ..kv_cache import Run
from ..parallel.cards import Cards

MAX_BIAS = 8  # ALiBi's slopes fall from 2 ** -(MAX_BIAS / heads) to 2 ** -MAX_BIAS


def whole_masks(config: LanguageConfig, bias, embeds) -> list:
    """Return each layer's mask for whole sequences, embeds [B, T, H]. bias: as `LanguageModel.forward` takes it."""
    (batch, length), num_heads, window = embeds.shape[:2], config.num_attention_heads, config.sliding_window
    if isinstance(bias, Runs):
        return _per_layer(config, bias, dataclasses.replace(bias, window=window))
    full = _prepared(config, shared_mask(bias, batch, length, num_heads, embeds), embeds)
    if sees_all(config, length):
        return _per_layer(config, full, full)
    windowed = shared_mask(join_biases(bias, window_bias(length, length, window)), batch, length, num_heads, embeds)
    return _per_layer(config, full, _prepared(config, windowed, embeds))


def run_masks(config: LanguageConfig, run: Run, num_new: int, capacity: int, embeds) -> list:
    """Return each layer's mask for num_new positions from a run's start on; None where they are the first, and causal.

    Other masks are over the whole capacity of the run's slot.
    """
    queries = paddle.arange(run.start, run.start + num_new, dtype="int64").reshape([1, 1, -1, 1])
    full = _prepared(config, _cached_bias(queries, capacity), embeds) if run.start else None
    if sees_all(config, run.start + num_new):
        return _per_layer(config, full, full)
    windowed = _cached_bias(queries, capacity, config.sliding_window)
    windowed = windowed if run.start else windowed[..., :num_new]
    return _per_layer(config, full, _prepared(config, windowed, embeds))


def step_masks(config: LanguageConfig, lengths, capacity: int) -> list:
    """Return each layer's mask [slots, 1, 1, capacity] for one position a slot. lengths: int64 [slots]."""
    queries = lengths.reshape([-1, 1, 1, 1])
    full = _cached_bias(queries, capacity)
    if sees_all(config, capacity):
        return _per_layer(config, full, full)
    return _per_layer(config, full, _cached_bias(queries, capacity, config.sliding_window))


def sees_all(config: LanguageConfig, length: int) -> bool:
    """Return whether every layer's window covers a sequence of this length."""
    return config.sliding_window is None or length <= config.sliding_window


def key_bias(config: LanguageConfig, num_keys: int, last, cards: Cards | None = None):
    """Return ALiBi's bias for each key, or None without ALiBi. Only distances count, in every row and segment.

    last: the last query, or that of each row. cards: those over which the heads are divided; config is of one of them.
    """
    if config.positions != "alibi":
        return None
    num_heads = config.num_attention_heads
    slopes = alibi_slopes(num_heads if cards is None else num_heads * cards.degree)
    if cards is not None:
        slopes = slopes[slice(*cards.bounds(len(slopes)))]
    return paddle.to_tensor(alibi_bias(slopes, num_keys, last))


@functools.cache
def alibi_slopes(num_heads: int) -> np.ndarray:
    """Return how much the scores of each head decrease per position, float32 [num_heads].

    If the number of heads is not a power of two, the slopes are taken from those of the next power: the second,
    fourth ... and then the first, third ... (MosaicML llm-foundry, attention.py: gen_slopes).
    """
    num_all = 2 ** math.ceil(math.log2(num_heads))
    slopes = 2.0 ** -(np.arange(1, num_all + 1) * MAX_BIAS / num_all)
    if num_all != num_heads:
        slopes = np.concatenate([slopes[1::2], slopes[::2]])[:num_heads]
    return slopes.astype(np.float32)


def alibi_bias(slopes: np.ndarray, num_keys: int, last) -> np.ndarray:
    """Return the bias of each key, float32 [rows of `last` or 1, heads, 1, num_keys].

    ALiBi subtracts slope * (query - key). The part that depends on the query alone does not change a softmax, so that
    one row serves all queries: the distances to the key at `last`, the last query, where the values are small.
    """
    distances = np.arange(num_keys, dtype=np.float32) - np.reshape(last, [-1, 1]).astype(np.float32)
    return (slopes[:, None] * distances[:, None])[:, :, None]


def _prepared(config: LanguageConfig, bias, embeds):
    """Return a mask in the form that the device's attention takes."""
    return bias if bias is None or config.positions == "alibi" else kernel_mask(bias, embeds, config.head_dim)


def _per_layer(config: LanguageConfig, full, windowed) -> list:
    return [full] * config.num_full_layers + [windowed] * (config.num_hidden_layers - config.num_full_layers)


def _cached_bias(queries, capacity: int, window: int | None = None):
    """Return the additive mask [B, 1, T, capacity]: the query at position i sees key j if j <= i.

    queries: positions, int64 [B, 1, T, 1]. window: and if j > i - window.
    """
    keys = paddle.arange(capacity, dtype="int64").reshape([1, 1, 1, -1])
    is_hidden = (keys > queries).astype("float32")
    if window is not None:
        is_hidden = is_hidden + (keys <= queries - window).astype("float32")
    return is_hidden * MASKED
