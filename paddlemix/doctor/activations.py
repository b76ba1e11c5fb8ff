"""What a training step keeps for its backward pass: counted from the configuration, in bytes. Needs no paddle.

The counts follow the code of `models/` operation by operation; in float32 on a CPU they equal what Paddle's allocator
reports (tests/train/test_memory.py measures it). "Elements" have the dtype that is computed in, unless float32 is said.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..models.config import LanguageConfig, LlavaConfig, VisionConfig
from ..models.projector_type import projector_blocks

FLOAT = 4  # bytes
WHOLE, BLOCK = 512, 256  # as in ops.attention
MAX_LOGITS = 1 << 26  # as in models.loss


@dataclass(frozen=True)
class Load:
    """What one card reads in one forward pass.

    lengths: tokens of each sample, its image tokens included. is_padded: each in a row of its own, all as long as the
    longest, as on devices that compile for shapes; else all behind each other in one row.
    """

    lengths: tuple[int, ...]
    num_trained_tokens: int
    num_tiles: int
    num_image_tokens: int
    is_padded: bool = False

    @property
    def rows(self) -> tuple[int, ...]:
        """The lengths that are computed."""
        return (max(self.lengths),) * len(self.lengths) if self.is_padded else self.lengths

    @property
    def num_tokens(self) -> int:
        return sum(self.rows)


@dataclass(frozen=True)
class Arithmetic:
    """How a step computes. bytes_each: of an element. has_flash: a kernel attends without holding the weights.

    adapter_widths: rank of every adapter in one decoder layer, by its layer's name. is_tower_trained: the tower keeps
    what its backward pass needs. has_own_gradients: as in ops.gradients, which keep inputs only.
    """

    bytes_each: int = FLOAT
    has_flash: bool = False
    has_own_gradients: bool = False
    adapter_widths: tuple[int, ...] = ()
    is_adapter_dropped: bool = False
    is_tower_trained: bool = False

    @property
    def is_half(self) -> bool:
        return self.bytes_each < FLOAT

    @property
    def weight_bytes(self) -> int:
        """Bytes of an attention weight: the softmax is taken in float32, and its result cast."""
        return FLOAT + self.bytes_each if self.is_half else FLOAT


def decoder_layer(config: LanguageConfig, load: Load, how: Arithmetic) -> int:
    """Return what a decoder layer keeps, its input included."""
    width, num_tokens = config.hidden_size, load.num_tokens
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    if how.has_own_gradients:
        elements = 2 * width + 2 * queries + 2 * keys + config.intermediate_size * (3 if config.is_gated else 2)
    else:
        # Two norms keep their input in float32, what they normalised and their result; queries and keys are kept before
        # and after turning, scaled or flattened for the kernel; values once; the projection's input.
        inner = config.intermediate_size * (4 if config.is_gated else 2)
        elements = 4 * width + 3 * queries + queries + 4 * keys + inner + (queries if how.has_flash else 0)
    elements += sum(how.adapter_widths)
    if how.is_adapter_dropped:
        elements += len(how.adapter_widths) * width
    floats = 2 * width + 2
    weights = 0 if how.has_flash else config.num_attention_heads * _pairs(load)
    return num_tokens * (elements * how.bytes_each + floats * FLOAT) + weights * how.weight_bytes


def decoder_backward(config: LanguageConfig, load: Load, how: Arithmetic) -> int:
    """Return what the backward pass of a layer needs beside what was kept, and beside gradients of weights."""
    inner = 2 * config.intermediate_size * load.num_tokens
    weights = 0 if how.has_flash else config.num_attention_heads * _pairs(load)
    return max(inner * how.bytes_each, weights * how.weight_bytes)


def shared_tables(config: LanguageConfig, load: Load, how: Arithmetic) -> int:
    """Return the rotary tables, the masks that layers share, and what stands around the layers."""
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    tables = 2 * queries + (2 * keys if keys != queries else 0) if config.positions == "rotary" else 0
    around = 3 * config.hidden_size  # the last norm, and embeddings before image features take their places
    if how.has_flash:
        mask = 0
    elif _has_runs(load):
        mask = sum(height * length for height, length in {block for row in load.rows for block in blocks(row)})
    else:
        mask = sum(length * length for length in load.rows) if max(load.rows) <= WHOLE else 0
    return load.num_tokens * (tables + around) * how.bytes_each + config.num_attention_heads * mask * FLOAT


def _has_runs(load: Load) -> bool:
    """Tell if samples lie behind each other, so that each is attended to by itself."""
    return len(load.lengths) > 1 and not load.is_padded


def _pairs(load: Load) -> int:
    """Return for how many pairs of a query and a key a head holds a weight."""
    whole = BLOCK if _has_runs(load) else WHOLE
    return sum(causal_pairs(length, whole) for length in load.rows)


def causal_pairs(length: int, whole: int) -> int:
    """Return the weights of one head: all of them for a short row, in blocks up to the last query for a long one."""
    if length <= whole:
        return length * length
    return sum(height * last for height, last in blocks(length))


def blocks(length: int) -> list[tuple[int, int]]:
    """Return the queries and the keys of each block of a row that is attended to causally."""
    ends = [min(start + BLOCK, length) for start in range(0, length, BLOCK)]
    return [(end - start, end) for start, end in zip(range(0, length, BLOCK), ends, strict=True)]


def head(config: LanguageConfig, load: Load, how: Arithmetic) -> int:
    """Return the logits of the trained tokens, their softmax and gradient; `models.loss` does a part at a time."""
    size = max(1, MAX_LOGITS // config.vocab_size)
    is_split = load.num_trained_tokens > size
    part = min(load.num_trained_tokens, size) * config.vocab_size
    num_float = 3 if is_split else 2
    return part * (num_float * FLOAT + (how.bytes_each if how.is_half else 0)) + 2 * load.num_trained_tokens * (
        config.hidden_size * how.bytes_each
    )


def tower(config: VisionConfig, load: Load, how: Arithmetic) -> tuple[int, int]:
    """Return what the tower keeps, and what it needs for a while: in its backward pass, or frozen in its forward."""
    width, places = config.hidden_size, config.num_positions
    num_tokens = load.num_tiles * places
    weights = num_tokens * config.num_attention_heads * places * how.weight_bytes
    if not how.is_tower_trained:
        in_block = weights * min(1.0, BLOCK / places)
        forward = num_tokens * max(9 * width, 2 * width + 3 * config.intermediate_size) * how.bytes_each
        return 0, int(2 * in_block + forward)
    inner = config.intermediate_size * (3 if config.hidden_act == "quick_gelu" else 2)
    layer = num_tokens * ((8 * width + inner) * how.bytes_each + 4 * FLOAT) + weights
    kept = layer * config.num_used_layers + num_tokens * 3 * width * how.bytes_each
    return kept, int(max(2 * num_tokens * config.intermediate_size * how.bytes_each, 1.6 * weights))


def projector(config: LlavaConfig, load: Load, how: Arithmetic) -> int:
    """Return what the projector and the features that it hands on keep."""
    num_linear, num_residual = projector_blocks(config.projector_type)
    num_tokens = load.num_tiles * config.image.patches_per_side**2
    width = config.language.hidden_size
    elements = (2 * num_linear - 1 + 5 * num_residual) * width + config.vision.hidden_size
    return num_tokens * elements * how.bytes_each + load.num_image_tokens * 2 * width * how.bytes_each


def pixels(config: LlavaConfig, load: Load) -> int:
    return load.num_tiles * 3 * config.image.side**2 * FLOAT


def activations(config: LlavaConfig, load: Load, how: Arithmetic, is_recomputed: bool) -> dict[str, int]:
    """Return the peak of a step's forward and backward pass by part, in bytes; the parts add up to it."""
    language, num_layers = config.language, config.language.num_hidden_layers
    layer, backward = decoder_layer(language, load, how), decoder_backward(language, load, how)
    in_head = head(language, load, how)
    if is_recomputed:
        carried = load.num_tokens * language.hidden_size * how.bytes_each
        kept, backward = num_layers * carried, backward + layer + carried
    else:
        kept = num_layers * layer
    seen, in_tower = tower(config.vision, load, how)
    fixed = pixels(config, load) + projector(config, load, how)
    tables = shared_tables(language, load, how)
    decoder = kept + tables + max(backward - in_head, 0)
    # The tower's own peak comes before the decoder's in a frozen tower, and after it in one that trains.
    missing = max(in_tower - decoder - in_head, 0)
    return {"layers": decoder, "head": in_head, "tower": seen + missing, "pictures": fixed}
