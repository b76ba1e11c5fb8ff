"""Estimate the memory that a training run needs on a card, by component, from its configuration."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import paddle

from ..checkpoints.layouts.shapes import parameter_shapes
from ..constants import DTYPE_BYTES
from ..device import CPU, GPU, NPU
from ..models.config import LlavaConfig
from ..models.llava import Llava
from ..models.parallel.cuts import config_of_part
from ..ops.vector_math import vector_math
from ..terminal.sizes import in_memory
from ..train.arguments import ModelArguments
from ..train.freeze import PROJECTOR_PARTS, lora_targets, trained_names
from ..train.settings import Method
from .activations import FLOAT, Arithmetic, Load, activations

GIB = 1 << 30
MOMENTS = 2 * FLOAT  # bytes of AdamW's two moments, in float32 whatever the weights are
MIN_SHARDED = 1 << 20  # elements: stage 3 leaves smaller tensors whole (GroupShardedStage3's segment_size)
# Bytes an element: NF4 with an 8-bit scale for each 64, and a float32 scale for each 256 of these; int8.
QUANTIZED_BYTES = {4: 0.5 + 1 / 64 + FLOAT / (64 * 256), 8: 1.0}
QUANTIZED = re.compile(r"language_model\.layers\.\d+\..*_proj\.weight")
MANY = 1e8  # trained parameters from which adapters are worth a hint
CONTEXT = {GPU: GIB, NPU: GIB}  # bytes that driver, kernels and collectives take, roughly


@dataclass(frozen=True)
class Trainable:
    """The trainable parts of a model. names: its parameters. targets: its layers with adapters."""

    names: Collection[str]
    targets: Sequence[str] = ()


@dataclass(frozen=True)
class Estimate:
    """Bytes on a card by component.

    activations: by part, with recompute if is_recomputed; other_activations: their sum with the other choice. on_host:
    bytes that offloading moves to the host. num_trained and num_parameters are of the whole model; the first includes
    adapters.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: dict[str, int]
    other_activations: int
    context: int
    on_host: int
    num_trained: int
    num_parameters: int
    is_recomputed: bool

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + sum(self.activations.values()) + self.context

    @property
    def allocated(self) -> int:
        """Bytes that the framework's allocator hands out: all but the context."""
        return self.total - self.context


def estimate(config: LlavaConfig, trainable: Trainable, load: Load, method: Method) -> Estimate:
    """Return the memory at the peak of a step, when gradients and the optimizer's state exist."""
    whole = shapes = parameter_shapes(config)
    if method.num_parts > 1:
        config = config_of_part(config, method.num_parts)
        shapes = parameter_shapes(config)
    adapters = _adapters(shapes, trainable, method)
    trained = _trained(shapes, trainable) | adapters
    num_here = sum(trained.values())
    state = MOMENTS + (FLOAT if method.weight_bytes < FLOAT else 0)  # half weights have a float32 copy
    each = FLOAT if method.has_float_gradients else method.weight_bytes
    # A gradient is computed before it is added to the accumulated one, so that one tensor exists twice.
    gradients = _share(num_here, method, 2) * each + max(trained.values(), default=0) * each
    optimizer = _share(num_here, method, 1) * state
    arithmetic = _arithmetic(trainable, method, load)
    peaks = activations(config, load, arithmetic, method.is_recomputed)
    others = activations(config, load, arithmetic, not method.is_recomputed)
    peaks["copies"] = _copies(shapes, method, method.is_recomputed)
    return Estimate(
        _weights(shapes, adapters, method),
        gradients,
        0 if method.is_offloaded else optimizer,
        peaks,
        sum(others.values()) + _copies(shapes, method, not method.is_recomputed),
        CONTEXT.get(method.device, 0),
        optimizer if method.is_offloaded else 0,
        sum((_trained(whole, trainable) | _adapters(whole, trainable, method)).values()),
        sum(map(math.prod, whole.values())),
        method.is_recomputed,
    )


def _adapters(shapes: dict, trainable: Trainable, method: Method) -> dict[str, int]:
    return {f"{name}.lora": method.rank_of(name) * sum(shapes[f"{name}.weight"]) for name in trainable.targets}


def _trained(shapes: dict, trainable: Trainable) -> dict[str, int]:
    return {name: math.prod(shapes[name]) for name in trainable.names}


def _share(number: int, method: Method, since: int) -> int:
    """Return this card's share of a number that is divided from a sharding stage on."""
    return -(-number // method.num_shards) if method.sharding >= since else number


def _weights(shapes: dict, adapters: dict[str, int], method: Method) -> int:
    total = 0.0
    for name, shape in [*shapes.items(), *((name, (size,)) for name, size in adapters.items())]:
        number = math.prod(shape)
        each: float = method.weight_bytes
        if method.base_bits is not None and QUANTIZED.fullmatch(name):
            each = QUANTIZED_BYTES[method.base_bits]
        total += each * (_share(number, method, 3) if number > MIN_SHARDED else number)
    return int(total)


def _copies(shapes: dict, method: Method, is_recomputed: bool) -> int:
    """Return the bytes of weight copies: gathered by stage 3, dequantized, or cast by O1 for every product."""
    matrices = {name: math.prod(shape) for name, shape in shapes.items() if name.startswith("language_model.layers.")}
    largest = max(matrices.values())
    layer = sum(size for name, size in matrices.items() if name.startswith("language_model.layers.0."))
    each, copies = DTYPE_BYTES[method.dtype], 0
    if method.sharding >= 3:
        copies += 2 * largest * method.weight_bytes  # the weight in use and the next one
    if method.base_bits is not None:
        copies += largest * each
    if each < method.weight_bytes:
        copies += (layer if is_recomputed else sum(matrices.values())) * each
    return copies


def _arithmetic(trainable: Trainable, method: Method, load: Load) -> Arithmetic:
    bytes_each = DTYPE_BYTES[method.dtype]
    in_layer = [name for name in trainable.targets if name.startswith("language_model.layers.0.")]
    is_on_cpu = method.device == CPU and bytes_each == FLOAT
    is_in_tower = any(name.startswith("vision_tower.") for name in trainable.targets)
    return Arithmetic(
        bytes_each,
        # As in ops.packed_attention: the kernel is used for several samples in a row.
        has_flash=method.device == GPU and bytes_each < FLOAT and load.has_runs,
        is_on_cpu=is_on_cpu,
        has_vector_math=is_on_cpu and _has_vector_math(),
        adapter_widths=(method.lora_rank,) * len(in_layer),
        is_adapter_dropped=method.has_lora_dropout,
        is_tower_trained=is_in_tower or any(name.startswith("vision_tower.") for name in trainable.names),
    )


def _has_vector_math() -> bool:
    """Return whether attention on the CPU uses `vector_math`, which needs heads in contiguous memory."""
    is_strided = paddle.get_flags("FLAGS_use_stride_kernel")["FLAGS_use_stride_kernel"]
    return not is_strided and vector_math() is not None


def advice(found: Estimate, method: Method, num_samples: int, num_cards: int) -> list[str]:
    """Return settings that would need less memory, the cheapest first."""
    state, peak = found.gradients + found.optimizer, sum(found.activations.values())
    others = (num_cards - 1) / num_cards
    saved = {}
    if not found.is_recomputed:
        saved['"recompute": true'] = peak - found.other_activations
    if method.dtype != "float32" and not method.is_half_stored:
        saved['"fp16_opt_level": "O2"'] = found.weights // 2
    if method.sharding < 2 and method.num_parts == 1:
        saved['"sharding": "stage2"'] = int(state * others)
    if method.sharding == 2:
        saved['"sharding": "stage3"'] = int(found.weights * others)
    if num_samples > 1:
        smaller = "per_device_train_batch_size 1 with more gradient_accumulation_steps"
        saved[smaller] = peak - peak // num_samples
    if method.sharding >= 2 and not method.is_offloaded:
        saved['"sharding": "stage3 offload"'] = found.optimizer  # Paddle offloads stage 2 only with some settings
    if method.lora_rank == 0 and found.num_trained > MANY:
        saved['"lora": true'] = state
    return [f"{text} (about {in_memory(size)} less)" for text, size in saved.items() if size > 0]


def outline(config: LlavaConfig, args: ModelArguments) -> Trainable:
    """Choose the trainable parts as training does, on a model without values. Raises ValueError as training would."""
    if not args.lora:
        names = trained_names(config, args)
        if not names:
            raise ValueError("no parameter is trainable: freeze_include and freeze_exclude freeze every parameter")
        return Trainable(names)
    with paddle.LazyGuard():
        model = Llava(config)
    targets = lora_targets(model, args.lora_target_modules)
    adapted = {f"{name}.{kind}" for name in targets for kind in ("weight", "bias")}
    names = [name for name, _ in model.named_parameters() if name.startswith(PROJECTOR_PARTS)]
    return Trainable([] if args.freeze_mm_mlp_adapter else [name for name in names if name not in adapted], targets)
