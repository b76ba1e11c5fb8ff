"""How rotary frequencies are stretched so that a decoder reads longer contexts than it was first trained on."""

from __future__ import annotations

import math

import numpy as np

from ..config import LanguageConfig


def frequency_scales(config: LanguageConfig, is_long: bool = False) -> np.ndarray | None:
    """Return what each rotary frequency is multiplied by, float32 [head_dim / 2], or None where none is changed.

    "linear" (Chen et al. 2023) divides all by factor. "llama3" (Grattafiori et al. 2024) divides those that turn fewer
    than low_freq_factor times within the original context, keeps those that turn more than high_freq_factor times, and
    goes over from one to the other linearly in the number of turns. "longrope" (Ding et al. 2024) divides each by a
    number of its own, one of short_factor, or of long_factor in a sequence for which `is_long`. "dynamic" changes
    nothing within max_position_embeddings.
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
    """Return what queries and keys are multiplied by beside being turned: more than 1 for "longrope" only.

    It is sqrt(1 + ln(factor) / ln(original length)), whatever the length of a sequence (Ding et al. 2024).
    """
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "longrope" or scaling.factor <= 1.0:
        return 1.0
    return math.sqrt(1 + math.log(scaling.factor) / math.log(scaling.original_max_position_embeddings))


class RopeScales:
    """A decoder's scales, chosen by the length of each sequence where they depend on it.

    "longrope" has other scales for a sequence that is longer than the original context. As in transformers all of its
    positions, also the first ones, are turned by those then; but each sequence of a batch or a packed row goes by its
    own length, where transformers takes the longest one's for all, so that no answer depends on its neighbours.
    A cache holds keys that are turned already. When a conversation grows past the original context, or is cut back
    to less, they are those of another model: `LanguageModel.must_read_again` tells it, and `Engine` then reads all
    once more, so that the logits are always those of reading the whole at once.
    "dynamic" would change with every further position beyond max_position_embeddings, which nothing here reaches:
    longer sequences raise ValueError.
    """

    def __init__(self, config: LanguageConfig):
        scaling = config.rope_scaling
        self.kind = scaling.kind if scaling else None
        self.short, self.amplitude = frequency_scales(config), amplitude(config)
        self.long = frequency_scales(config, is_long=True) if self.kind == "longrope" else None
        limits = {"dynamic": config.max_position_embeddings}
        self.limit = limits.get(self.kind) if self.kind != "longrope" else scaling.original_max_position_embeddings

    @property
    def has_two(self) -> bool:
        """Tell if the length of a sequence matters."""
        return self.long is not None

    def of(self, position_ids, num_columns: int) -> np.ndarray | None:
        """Return the scales for whole sequences at position_ids [B, T], as `ops.rope.rope_tables` takes them.

        num_columns: how long a sequence can be at most, so that short ones need not be brought to the host.
        """
        if self.limit is None or num_columns <= self.limit:
            return self.short
        is_long = self._compare(sequence_lengths(position_ids.numpy()))
        if is_long.all() or not is_long.any():
            return self.long if is_long.any() else self.short
        return np.where(is_long[..., None], self.long, self.short)

    def is_long(self, position_ids, num_columns: int) -> tuple[bool, ...]:
        """Tell for each row if the sequence that ends with its last position is a long one; all False: empty."""
        if self.limit is None or num_columns <= self.limit:
            return ()
        is_long = self._compare(position_ids[:, -1].numpy() + 1)
        return tuple(is_long.tolist()) if is_long.any() else ()

    def of_rows(self, is_long: tuple[bool, ...]) -> np.ndarray | None:
        """Return the scales for what `is_long` said of the rows."""
        if all(is_long):
            return self.long if is_long else self.short
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
    """Return for each position [B, T] the length of its sequence: of the run, counting up by one, that it is in."""
    num_columns = position_ids.shape[1]
    is_last = np.ones(position_ids.shape, dtype=bool)
    is_last[:, :-1] = np.diff(position_ids, axis=1) != 1
    columns = np.where(is_last, np.arange(num_columns), num_columns)
    ends = np.minimum.accumulate(columns[:, ::-1], axis=1)[:, ::-1]
    return np.take_along_axis(position_ids, ends, axis=1) + 1


MAX_BIAS = 8  # the steepest slopes are 2 ** -(MAX_BIAS / heads) and so on


def alibi_slopes(num_heads: int) -> np.ndarray:
    """Return by how much a score falls a position, float32 [num_heads].

    Where the number of heads is no power of two, those of the next one are taken: the second, fourth ... and then the
    first, third ... (MosaicML llm-foundry, attention.py: gen_slopes).
    """
    num_all = 2 ** math.ceil(math.log2(num_heads))
    slopes = 2.0 ** -(np.arange(1, num_all + 1) * MAX_BIAS / num_all)
    if num_all != num_heads:
        slopes = np.concatenate([slopes[1::2], slopes[::2]])[:num_heads]
    return slopes.astype(np.float32)


def alibi_bias(slopes: np.ndarray, num_keys: int, last: int) -> np.ndarray:
    """Return what is added to the scores of each key, float32 [1, heads, 1, num_keys].

    ALiBi subtracts slope * (query - key). What depends on the query alone makes no difference to a softmax, so that one
    row serves all queries: the distances are those from the key at `last`, the last query, where the values are small.
    """
    distances = np.arange(num_keys, dtype=np.float32) - last
    return (slopes[:, None] * distances).reshape([1, len(slopes), 1, num_keys])
