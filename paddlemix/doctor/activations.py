"""The bytes that a training step keeps for its backward pass, counted from the configuration. Needs no paddle.

The counts follow the code of `models/` operation by operation. In float32 on a CPU they equal what Paddle's allocator
reports (tests/doctor/test_memory.py). "Elements" have the dtype of the computations, "floats" are float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..models.config import LanguageConfig, LlavaConfig, VisionConfig
from ..models.projector_type import projector_blocks

FLOAT = 4  # bytes
WHOLE, BLOCK = 512, 256  # the same as in ops.attention
MAX_LOGITS = 1 << 26  # the same as in models.loss


@dataclass(frozen=True)
class Load:
    """The batch of one card in one forward pass.

    lengths: tokens of each sample, its image tokens included. is_padded: each sample is a row, padded to the longest,
    as on devices that compile for shapes; else all samples are in one row.
    """

    lengths: tuple[int, ...]
    num_trained_tokens: int
    num_tiles: int
    num_image_tokens: int
    is_padded: bool = False

    @property
    def rows(self) -> tuple[int, ...]:
        """The lengths with padding."""
        return (max(self.lengths),) * len(self.lengths) if self.is_padded else self.lengths

    @property
    def num_tokens(self) -> int:
        return sum(self.rows)

    @property
    def has_runs(self) -> bool:
        """Whether several samples are in one row, so that attention runs for each one separately."""
        return len(self.lengths) > 1 and not self.is_padded


@dataclass(frozen=True)
class Arithmetic:
    """How a step computes. bytes_each: of an element. has_flash: the attention kernel does not store its weights.

    adapter_widths: rank of every adapter in one decoder layer. is_tower_trained: the tower keeps what its backward pass
    needs. has_own_gradients: see `ops.kernel_checks.wants_own_gradient`; they keep inputs only.
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


def decoder_layer(config: LanguageConfig, load: Load, arithmetic: Arithmetic) -> int:
    """Return the bytes that a decoder layer keeps, its input included."""
    width, num_tokens = config.hidden_size, load.num_tokens
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    if arithmetic.has_own_gradients:
        elements = 2 * width + 2 * queries + 2 * keys + config.intermediate_size * (3 if config.is_gated else 2)
    else:
        # Two norms keep their input in float32, its normalized values and their result. Queries and keys are kept
        # before and after the rotation, scaled or flattened for the kernel. Values, and the projection's input, are
        # kept once.
        inner = config.intermediate_size * (4 if config.is_gated else 2)
        elements = 4 * width + 3 * queries + queries + 4 * keys + inner + (queries if arithmetic.has_flash else 0)
    elements += sum(arithmetic.adapter_widths)
    if arithmetic.is_adapter_dropped:
        elements += len(arithmetic.adapter_widths) * width
    floats = 2 * width + 2
    weights = _weights(config, load, arithmetic)
    return num_tokens * (elements * arithmetic.bytes_each + floats * FLOAT) + weights


def decoder_backward(config: LanguageConfig, load: Load, arithmetic: Arithmetic) -> int:
    """Return the bytes that a layer's backward pass needs, without what was kept and the gradients of weights."""
    inner = 2 * config.intermediate_size * load.num_tokens
    return max(inner * arithmetic.bytes_each, _weights(config, load, arithmetic))


def shared_tables(config: LanguageConfig, load: Load, arithmetic: Arithmetic) -> int:
    """Return the bytes of the rotary tables, of the masks that layers share, and of activations around the layers."""
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    tables = 2 * queries + (2 * keys if keys != queries else 0) if config.positions == "rotary" else 0
    around = 3 * config.hidden_size  # the last norm, and the embeddings before image features replace some
    if arithmetic.has_flash:
        mask = 0
    elif load.has_runs:
        mask = sum(height * length for height, length in {block for row in load.rows for block in blocks(row)})
    else:
        mask = sum(length * length for length in load.rows) if max(load.rows) <= WHOLE else 0
    return load.num_tokens * (tables + around) * arithmetic.bytes_each + config.num_attention_heads * mask * FLOAT


def _weights(config: LanguageConfig, load: Load, arithmetic: Arithmetic) -> int:
    """Return the bytes of the attention weights that a layer stores."""
    if arithmetic.has_flash:
        return 0
    whole = BLOCK if load.has_runs else WHOLE
    pairs = sum(causal_pairs(length, whole) for length in load.rows)
    return config.num_attention_heads * pairs * arithmetic.weight_bytes


def causal_pairs(length: int, whole: int) -> int:
    """Return the number of weights of one head: of all pairs for a short row, up to each block's end for a long one."""
    if length <= whole:
        return length * length
    return sum(height * last for height, last in blocks(length))


def blocks(length: int) -> list[tuple[int, int]]:
    """Return the numbers of queries and of keys in each block of a row with causal attention."""
    ends = [min(start + BLOCK, length) for start in range(0, length, BLOCK)]
    return [(end - start, end) for start, end in zip(range(0, length, BLOCK), ends, strict=True)]


def head(config: LanguageConfig, load: Load, arithmetic: Arithmetic) -> int:
    """Return the bytes of logits, softmax and gradient of the trained tokens; `models.loss` computes them in parts."""
    size = max(1, MAX_LOGITS // config.vocab_size)
    is_split = load.num_trained_tokens > size
    part = min(load.num_trained_tokens, size) * config.vocab_size
    in_logits = part * ((3 if is_split else 2) * FLOAT + (arithmetic.bytes_each if arithmetic.is_half else 0))
    return in_logits + 2 * load.num_trained_tokens * config.hidden_size * arithmetic.bytes_each


def tower(config: VisionConfig, load: Load, arithmetic: Arithmetic) -> tuple[int, int]:
    """Return the bytes that the tower keeps, and its peak: in its backward pass, or in the forward pass if frozen."""
    width, positions = config.hidden_size, config.num_positions
    num_tokens = load.num_tiles * positions
    weights = num_tokens * config.num_attention_heads * positions * arithmetic.weight_bytes
    if not arithmetic.is_tower_trained:
        in_block = weights * min(1.0, BLOCK / positions)
        forward = num_tokens * max(9 * width, 2 * width + 3 * config.intermediate_size) * arithmetic.bytes_each
        return 0, int(2 * in_block + forward)
    inner = config.intermediate_size * (3 if config.hidden_act == "quick_gelu" else 2)
    layer = num_tokens * ((8 * width + inner) * arithmetic.bytes_each + 4 * FLOAT) + weights
    kept = layer * config.num_used_layers + num_tokens * 3 * width * arithmetic.bytes_each
    return kept, int(max(2 * num_tokens * config.intermediate_size * arithmetic.bytes_each, 1.6 * weights))


def projector(config: LlavaConfig, load: Load, arithmetic: Arithmetic) -> int:
    """Return the bytes of the projector's activations and of the features that it returns."""
    num_linear, num_residual = projector_blocks(config.projector_type)
    num_tokens = load.num_tiles * config.image.patches_per_side**2
    width = config.language.hidden_size
    elements = (2 * num_linear - 1 + 5 * num_residual) * width + config.vision.hidden_size
    return num_tokens * elements * arithmetic.bytes_each + load.num_image_tokens * 2 * width * arithmetic.bytes_each


def activations(config: LlavaConfig, load: Load, arithmetic: Arithmetic, is_recomputed: bool) -> dict[str, int]:
    """Return the parts that add up to the peak of a step's forward and backward pass, in bytes."""
    language, num_layers = config.language, config.language.num_hidden_layers
    layer, backward = decoder_layer(language, load, arithmetic), decoder_backward(language, load, arithmetic)
    in_head = head(language, load, arithmetic)
    if is_recomputed:
        carried = load.num_tokens * language.hidden_size * arithmetic.bytes_each
        kept, backward = num_layers * carried, backward + layer + carried
    else:
        kept = num_layers * layer
    kept_by_tower, in_tower = tower(config.vision, load, arithmetic)
    pixels = load.num_tiles * 3 * config.image.side**2 * FLOAT
    fixed = pixels + projector(config, load, arithmetic)
    tables = shared_tables(language, load, arithmetic)
    decoder = kept + tables + max(backward - in_head, 0)
    # The tower's own peak is before the decoder's if it is frozen, and after it if it trains.
    missing = max(in_tower - decoder - in_head, 0)
    return {"layers": decoder, "head": in_head, "tower": kept_by_tower + missing, "images": fixed}
