"""Rotary positions of a decoder: which tables its queries and keys are rotated by, with scaled frequencies or without.

Scaling the frequencies lets a decoder read longer contexts than it was first trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...ops.rope import rope_tables
from ..config import LanguageConfig


def frequency_scales(config: LanguageConfig, is_long: bool = False) -> np.ndarray | None:
    """Return a factor for each rotary frequency, float32 [head_dim / 2], or None if no frequency changes.

    "linear" (Chen et al. 2023) divides all by factor. "llama3" (Grattafiori et al. 2024) divides frequencies with fewer
    than low_freq_factor turns within the original context, keeps those with more than high_freq_factor turns, and
    interpolates linearly in the number of turns between. "longrope" (Ding et al. 2024) divides each by its own number,
    from long_factor for a sequence that `is_long`, else from short_factor. "dynamic" changes nothing within
    max_position_embeddings.
    """
    scaling, dim = config.rope_scaling, config.head_dim
    if scaling is None or scaling.kind == "dynamic":
        return None
    if scaling.kind == "linear":
        return np.full(dim // 2, 1 / scaling.factor, np.float32)
    if scaling.kind == "longrope":
        return (1 / np.array(scaling.long_factor if is_long else scaling.short_factor)).astype(np.float32)
    frequencies = config.rope_theta ** -(np.arange(0, dim, 2) / dim)
    num_turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((num_turns - low) / (high - low), 0.0, 1.0)
    return (kept + (1 - kept) / scaling.factor).astype(np.float32)


def amplitude(config: LanguageConfig) -> float:
    """Return the factor of rotated queries and keys: above 1 for "longrope" only.

    It is sqrt(1 + ln(factor) / ln(original length)) for sequences of any length (Ding et al. 2024).
    """
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "longrope" or scaling.factor <= 1.0:
        return 1.0
    return math.sqrt(1 + math.log(scaling.factor) / math.log(scaling.original_max_position_embeddings))


class RotaryPositions:
    """A decoder's rotary tables. With "longrope", long sequences have other frequencies than short ones.

    A sequence is long if it can become longer than the original context. All of its positions are then rotated by the
    long factors, as in transformers; but each sequence of a batch or of a packed row is judged alone, where
    transformers takes the longest one for all, so that no answer depends on its neighbors. In generation the choice is
    made once, from prompt and budget (`choose`), because a cache stores keys that are already rotated.
    "dynamic" would change the frequencies with every position beyond max_position_embeddings: such sequences raise
    ValueError.
    """

    def __init__(self, config: LanguageConfig):
        scaling = config.rope_scaling
        self.config = config
        self.kind = scaling.kind if scaling else None
        self.short, self.amplitude = frequency_scales(config), amplitude(config)
        self.long = frequency_scales(config, is_long=True) if self.kind == "longrope" else None
        self.limit = config.max_position_embeddings if self.kind == "dynamic" else None
        if self.kind == "longrope":
            self.limit = scaling.original_max_position_embeddings

    def tables(self, position_ids, num_heads: int, dtype, scales: np.ndarray | None):
        """Return cos and sin as `rope_tables` does, or None without rotary positions."""
        config = self.config
        if config.positions != "rotary":
            return None
        shape, order = (config.head_dim, config.rope_theta, num_heads), config.rope_order
        return rope_tables(position_ids, *shape, dtype, scales, self.amplitude, order)

    def layer_tables(self, position_ids, dtype, scales: np.ndarray | None):
        """Return the tables for queries and those for keys, or None without rotary positions."""
        num_queries, num_keys = self.config.num_attention_heads, self.config.num_key_value_heads
        tables = self.tables(position_ids, num_queries, dtype, scales)
        if tables is None or num_keys == num_queries:
            return None if tables is None else (tables, tables)
        return tables, tuple(table[:, :num_keys].contiguous() for table in tables)

    def scales(self, position_ids, num_columns: int) -> np.ndarray | None:
        """Return the scales for whole sequences at position_ids [B, T], as `rope_tables` takes them.

        num_columns: the greatest possible length, so that short sequences are not copied to the host.
        """
        if self.limit is None or num_columns <= self.limit:
            return self.short
        is_long = self._compare(sequence_lengths(position_ids.numpy()))
        if is_long.all() or not is_long.any():
            return self.long if is_long.any() else self.short
        return np.where(is_long[..., None], self.long, self.short)

    def choose(self, lengths: Sequence[int]) -> tuple[bool, ...]:
        """Return for each sequence whether it is long. lengths: of prompt and budget together."""
        if self.limit is None:
            return (False,) * len(lengths)
        return tuple(self._compare(np.array(lengths)).tolist())

    def scales_of(self, is_long: Sequence[bool]) -> np.ndarray | None:
        """Return the scales for rows as `choose` classified them."""
        if all(is_long) or not any(is_long):
            return self.long if any(is_long) else self.short
        return np.where(np.array(is_long)[:, None, None], self.long, self.short)

    def _compare(self, lengths: np.ndarray) -> np.ndarray:
        is_long = lengths > self.limit
        if self.kind == "dynamic" and is_long.any():
            raise ValueError(
                f"a sequence of {lengths.max()} positions is longer than max_position_embeddings {self.limit}, beyond "
                "which rope_scaling of kind 'dynamic' is not supported: shorten it"
            )
        return is_long


def sequence_lengths(position_ids: np.ndarray) -> np.ndarray:
    """Return for each position [B, T] the length of its sequence, which is a run of positions that count up by one."""
    num_columns = position_ids.shape[1]
    is_last = np.ones(position_ids.shape, dtype=bool)
    is_last[:, :-1] = np.diff(position_ids, axis=1) != 1
    columns = np.where(is_last, np.arange(num_columns), num_columns)
    ends = np.minimum.accumulate(columns[:, ::-1], axis=1)[:, ::-1]
    return np.take_along_axis(position_ids, ends, axis=1) + 1
