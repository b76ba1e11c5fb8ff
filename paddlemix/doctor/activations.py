"""The bytes that a training step keeps for its backward pass, counted from the configuration. Needs no paddle.

The counts follow the code of `models/` operation by operation. In float32 on a CPU they equal what Paddle's allocator
reports (tests/doctor/test_memory.py). "Elements" have the dtype of the computations, "floats" are float32. The scratch
of tiles is not counted, because it is NumPy's and small: a backward pass has two arrays of at most `MAX_SCORES` floats
(`ops.tiled_attention`), 8 MiB together, or more where a query has over 32,768 scores in the heads that share its keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..models.config import LanguageConfig, LlavaConfig, VisionConfig
from ..models.projector_type import projector_blocks

FLOAT = 4  # bytes
WHOLE, BLOCK = 512, 256  # the same as in ops.attention
FEWEST_QUERIES, FEWEST_SCORES = 8, 1 << 16  # the same as in ops.tiled_attention
MAX_EXPANDED = 1 << 24  # the same as in ops.attention
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
    needs. is_on_cpu: in float32; operations have own gradients (`ops.kernel_checks.wants_own_gradient`), which keep
    inputs only, and a frozen tower encodes tile by tile. has_vector_math: `ops.vector_math` is used; large attentions
    are in tiles (`ops.tiled_attention`), which keep their output instead of their weights.
    """

    bytes_each: int = FLOAT
    has_flash: bool = False
    is_on_cpu: bool = False
    has_vector_math: bool = False
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
    if arithmetic.is_on_cpu:
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
    # Tiles keep the output, beside its transposed copy that the projection takes, and the logarithms of the sums.
    num_tiled = sum(_rows(config, load, arithmetic, is_tiled=True))
    tiled = num_tiled * (queries * arithmetic.bytes_each + config.num_attention_heads * FLOAT)
    weights = _weights(config, load, arithmetic)
    return num_tokens * (elements * arithmetic.bytes_each + floats * FLOAT) + tiled + weights


def decoder_backward(config: LanguageConfig, load: Load, arithmetic: Arithmetic) -> int:
    """Return the bytes that a layer's backward pass needs, without what was kept and the gradients of weights."""
    is_plain = arithmetic.is_on_cpu and config.is_gated and not arithmetic.has_vector_math
    inner = (4 if is_plain else 2) * config.intermediate_size * load.num_tokens  # see `ops.activation.SwiGLU`
    return max(inner * arithmetic.bytes_each, _weights(config, load, arithmetic))


def shared_tables(config: LanguageConfig, load: Load, arithmetic: Arithmetic) -> int:
    """Return the bytes of the rotary tables, of the masks that layers share, and of activations around the layers."""
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    tables = 2 * queries + (2 * keys if keys != queries else 0) if config.positions == "rotary" else 0
    around = 3 * config.hidden_size  # the last norm, and the embeddings before image features replace some
    return load.num_tokens * (tables + around) * arithmetic.bytes_each + _shared_masks(config, load, arithmetic) * FLOAT


def _shared_masks(config: LanguageConfig, load: Load, arithmetic: Arithmetic) -> int:
    """Return the floats of the masks that layers share."""
    if arithmetic.has_flash:
        return 0
    plain, num_heads = _rows(config, load, arithmetic, is_tiled=False), config.num_attention_heads
    if load.has_runs:
        pairs = {block for row in plain if not _is_windowed(config, row) for block in blocks(row)}
        return num_heads * sum(height * length for height, length in pairs)
    if _is_windowed(config, max(load.rows)):
        single, size = max(load.rows) ** 2, num_heads * sum(row * row for row in load.rows)
        return size if arithmetic.is_on_cpu and size <= MAX_EXPANDED else single
    return num_heads * sum(row * row for row in plain) if max(load.rows) <= WHOLE else 0


def _weights(config: LanguageConfig, load: Load, arithmetic: Arithmetic) -> int:
    """Return the bytes of the attention weights that a layer stores, or of the masks that its tiles keep."""
    if arithmetic.has_flash:
        return 0
    whole = BLOCK if load.has_runs else WHOLE
    plain, tiled = (_rows(config, load, arithmetic, is_tiled=is_tiled) for is_tiled in (False, True))
    pairs = sum(row * row if _is_windowed(config, row) else causal_pairs(row, whole) for row in plain)
    # The mask of a sample in a row with others is made in each layer.
    masks = sum(row * row for row in tiled if load.has_runs and _is_windowed(config, row))
    return config.num_attention_heads * pairs * arithmetic.weight_bytes + masks * FLOAT


def _rows(config: LanguageConfig, load: Load, arithmetic: Arithmetic, *, is_tiled: bool) -> list[int]:
    """Return the lengths of the samples whose attention is in tiles, or of the others."""
    return [row for row in load.rows if _is_tiled(config, load, arithmetic, row) == is_tiled]


def _is_tiled(config: LanguageConfig, load: Load, arithmetic: Arithmetic, length: int) -> bool:
    """Return whether the attention of a sample is in tiles, as in `ops.packed_attention` and `ops.attention`."""
    if not arithmetic.has_vector_math:
        return False
    if load.has_runs and _is_windowed(config, max(load.rows)):
        return _is_windowed(config, length) and pays(config.num_attention_heads, length)
    is_one_task = load.has_runs and config.positions != "alibi"
    return pays(config.num_attention_heads, load.num_tokens if is_one_task else length)


def _is_windowed(config: LanguageConfig, length: int) -> bool:
    """Return whether the sliding window is shorter than a sample. It counts for all layers, as in most families."""
    return config.sliding_window is not None and length > config.sliding_window


def pays(num_heads: int, length: int) -> bool:
    """Return whether the attention of all positions to all is worth the fixed costs of tiles."""
    return length >= FEWEST_QUERIES and num_heads * length * length >= FEWEST_SCORES


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
    is_tiled = arithmetic.has_vector_math and pays(config.num_attention_heads, positions)
    of_token = 0 if is_tiled else config.num_attention_heads * positions * arithmetic.weight_bytes
    if not arithmetic.is_tower_trained:
        return 0, _frozen_tower(config, load, arithmetic, int(of_token * min(1.0, BLOCK / positions)))
    weights = num_tokens * of_token
    inner = config.intermediate_size * (3 if config.hidden_act == "quick_gelu" else 2)
    elements, floats = 8 * width + inner, 4
    if is_tiled:
        elements, floats = elements + width, floats + config.num_attention_heads  # as in the decoder
    layer = num_tokens * (elements * arithmetic.bytes_each + floats * FLOAT) + weights
    kept = layer * config.num_used_layers + num_tokens * 3 * width * arithmetic.bytes_each
    return kept, int(max(2 * num_tokens * config.intermediate_size * arithmetic.bytes_each, 1.6 * weights))


def _frozen_tower(config: VisionConfig, load: Load, arithmetic: Arithmetic, weights: int) -> int:
    """Return the peak of the forward pass. weights: the bytes for each token of a block."""
    width, inner, num_tokens = config.hidden_size, config.intermediate_size, load.num_tiles * config.num_positions
    if not arithmetic.is_on_cpu:
        return num_tokens * (2 * weights + max(9 * width, 2 * width + 3 * inner) * arithmetic.bytes_each)
    # Tile by tile, each a copy of its pixels. The softmax is in place.
    num_inner = 3 if config.hidden_act == "quick_gelu" and not arithmetic.has_vector_math else 2
    in_tile = config.num_positions * max(weights + 10 * width * FLOAT, (4 * width + num_inner * inner) * FLOAT)
    copies = load.num_tiles * 3 * config.image_size**2 * FLOAT if load.num_tiles > 1 else 0
    return in_tile + (load.num_tiles - 1) * config.num_positions * width * FLOAT + copies


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
