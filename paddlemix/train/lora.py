"""LoRA with paddlenlp's peft: add adapters to a model, and save and load them in PaddleMIX's file format."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.distributed.fleet.meta_parallel import get_rng_state_tracker
from paddlenlp.peft import LoRAConfig, LoRAModel
from paddlenlp.peft.lora.lora_layers import LoRALinear

from ..checkpoints.gathering import whole_tensors
from ..checkpoints.layouts import paddlemix_lora as adapter_files
from ..checkpoints.load import assign
from ..checkpoints.parts import cut_tensors
from ..models.llava import Llava
from ..models.parallel.cards import Cards, copied
from ..models.parallel.cuts import cut_of
from ..models.quantized import QuantizedLinear
from ..ops.dropout import Dropout
from ..output import replacing, write_json
from ..tensor_files.stored import StoredTensor
from ..terminal.log import notice
from .arguments import ModelArguments
from .freeze import PROJECTOR_PARTS, TOWER_PARTS, lora_targets


@dataclass
class TowerLoRAConfig(LoRAConfig):
    """paddlenlp's settings with a rank and an alpha of the vision tower's adapters. None: those of the others."""

    vision_lora_rank: int | None = None
    vision_lora_alpha: int | None = None

    def of_layer(self, name: str) -> LoRAConfig:
        """Return the settings of one layer by its name."""
        if not name.startswith(TOWER_PARTS):
            return self
        rank, alpha = self.vision_lora_rank or self.r, self.vision_lora_alpha or self.lora_alpha
        return dataclasses.replace(self, r=rank, lora_alpha=alpha)


def add_lora(model: Llava, args: ModelArguments, dtype: str, *, base: str) -> LoRAModel:
    """Add adapters to the matching layers. They, the projector and image_newline train, and nothing else.

    base: folder of the model, recorded in the adapter's config. Raises ValueError if no layer matches.
    """
    targets = lora_targets(model, args.lora_target_modules)
    config = TowerLoRAConfig(
        target_modules=[name.replace(".", r"\.") for name in targets],
        r=args.lora_rank,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        rslora=args.rslora,
        lora_plus_scale=args.lora_plus_scale,
        vision_lora_rank=args.vision_lora_rank,
        vision_lora_alpha=args.vision_lora_alpha,
        dtype=dtype,
        tensor_parallel_degree=1,
        base_model_name_or_path=os.path.abspath(base),
    )
    wrapped = AdaptedModel(model, config)
    wrapped.mark_only_lora_as_trainable()
    # A layer of the projector with an adapter trains only through it.
    adapted = {f"{name}.{kind}" for name in targets for kind in ("weight", "bias")}
    for name, parameter in model.named_parameters():
        if name.startswith(PROJECTOR_PARTS) and not args.freeze_mm_mlp_adapter and name not in adapted:
            parameter.stop_gradient = False
    if args.lora_path:
        load_adapter(wrapped, Path(args.lora_path))
    return wrapped


def trained_tensors(wrapped: LoRAModel) -> dict[str, paddle.Tensor]:
    """Return the tensors that train by this project's names."""
    return {name: tensor for name, tensor in wrapped.model.named_parameters() if not tensor.stop_gradient}


def save_adapter(wrapped: LoRAModel, folder: Path) -> None:
    """Write lora_model_state.pdparams and lora_config.json with PaddleMIX's names and keys.

    All cards that share a model must call it; the first of them writes.
    """
    config, cards = wrapped.model.config, wrapped.model.cards
    whole = whole_tensors(trained_tensors(wrapped), cards)
    if cards is not None and cards.rank:
        return
    tensors = {adapter_files.to_paddlemix_name(name, config): value for name, value in whole.items()}
    buffer = io.BytesIO()  # paddle.save does not take an open file
    paddle.save(tensors, buffer)
    with replacing(folder / adapter_files.WEIGHTS) as file:
        file.write(buffer.getbuffer())
    values = dataclasses.asdict(wrapped.lora_config)
    for key in adapter_files.TOWER_KEYS:
        if values[key] is None:  # a file without them is the one that PaddleMIX writes
            del values[key]
    values["scaling"] = wrapped.lora_config.scaling
    if kind := quantization_of(wrapped.model):
        values[adapter_files.QUANTIZATION_KEY] = kind
    values["target_modules"] = [
        re.escape(adapter_files.to_paddlemix_name(name, config).removesuffix(".lora_A"))
        for name, _ in wrapped.model.named_parameters()
        if name.endswith(".lora_A")
    ]
    write_json(folder / adapter_files.CONFIG, values)


def load_adapter(wrapped: LoRAModel, folder: Path) -> None:
    """Load an adapter into the layers that it was trained in. Raises ValueError if its tensors are others."""
    recorded, kind = adapter_files.quantization_of(folder), quantization_of(wrapped.model)
    if recorded != kind:
        before, now = (name or "unquantized" for name in (recorded, kind))
        notice(f"{folder} was trained over {before} weights and continues over {now} ones")
    stored: dict[str, StoredTensor] = adapter_files.read_adapter(folder, wrapped.model.config)
    stored = cut_tensors(stored, wrapped.model.cards)
    parameters = dict(wrapped.model.named_parameters())
    wanted = set(trained_tensors(wrapped))
    if set(stored) != wanted or any(tuple(parameters[name].shape) != stored[name].shape for name in wanted):
        missing, extra = sorted(wanted - set(stored)), sorted(set(stored) - wanted)
        raise ValueError(
            f"the adapter in {folder} does not fit this run's LoRA settings: missing {missing[:5]}, extra {extra[:5]}, "
            "or another rank"
        )
    _check_scaling(wrapped, folder)
    for name in wanted:
        assign(parameters[name], stored[name])


def _check_scaling(wrapped: LoRAModel, folder: Path) -> None:
    """Raise ValueError for an adapter that would be scaled otherwise than in its training."""
    scale = adapter_files.scale_of(folder)
    for name in (name for name in trained_tensors(wrapped) if name.endswith(".lora_A")):
        before, now = scale.scaling_of(name), wrapped.lora_config.of_layer(name).scaling
        if not math.isclose(before, now, rel_tol=1e-6):
            raise ValueError(
                f"the adapter in {folder} is scaled by {before:g} (lora_alpha over lora_rank, or over its root with "
                f"rslora), and with these settings it would be scaled by {now:g}, which is another model. Take "
                f"lora_alpha, vision_lora_alpha and rslora from {folder / adapter_files.CONFIG}"
            )


@dataclass(frozen=True)
class Share:
    """What the adapter of a cut layer is on one card. factor: the one that is whole, see `parallel.cuts.Cut`."""

    cards: Cards
    factor: str


class OwnDropout(Dropout):
    """Dropout of a part of the inputs: with random numbers of this card's own."""

    def forward(self, x):
        with get_rng_state_tracker().rng_state("local_seed"):
            return super().forward(x)


def draw_factors(layer: nn.Layer, config: LoRAConfig, share: Share | None) -> None:
    """Initialize the factors of a new adapter. On cut layers they are parts of what a whole layer would have."""
    layer.share = share
    layer.lora_B.initialize()
    if share is None or share.factor == "lora_A":
        layer.lora_A.initialize()
        return
    num_here, rank = layer.lora_A.shape
    num_in, dtype = num_here * share.cards.degree, layer.lora_A.dtype
    whole = layer.create_parameter([num_in, rank], dtype=dtype, default_initializer=_spread())
    start, stop = share.cards.bounds(num_in)
    zeros = nn.initializer.Constant(0.0)
    layer.lora_A = layer.create_parameter([num_here, rank], dtype=dtype, default_initializer=zeros)
    layer.lora_A.set_value(whole[start:stop])
    if isinstance(layer.lora_dropout, nn.Dropout):
        layer.lora_dropout = OwnDropout(config.lora_dropout)


class NarrowLoRALinear(LoRALinear):
    """paddlenlp's layer with the scaling applied to lora_A, which is small, not to a result of the layer's width."""

    share: Share | None = None

    def forward(self, x):
        if self.disable_lora or self.merged:
            return super().forward(x)
        return F.linear(x, self.weight, self.bias) + _adapter_output(self, x)


class QuantizedLoRALinear(QuantizedLinear):
    """A quantized layer plus dropout(x) lora_A lora_B * scaling; names and initialization match paddlenlp's layer.

    lora_A and lora_B have paddle's default dtype, which LoRAModel sets while it makes layers.
    """

    share: Share | None = None

    def __init__(self, layer: QuantizedLinear, config: LoRAConfig):
        super().__init__(layer.shape, layer.bias, layer.kind, paddle.get_default_dtype())
        assert layer.adapter is None, "the layer has an adapter already"
        self.codes = layer.codes
        self.scaling = config.scaling
        self.lora_dropout = Dropout(config.lora_dropout)
        zeros = nn.initializer.Constant(0.0)
        self.lora_A = self.create_parameter([layer.shape[0], config.r], default_initializer=_spread())
        self.lora_B = self.create_parameter([config.r, layer.shape[1]], default_initializer=zeros)

    def forward(self, x):
        return super().forward(x) + _adapter_output(self, x)


def _spread() -> nn.initializer.Initializer:
    return nn.initializer.KaimingUniform(negative_slope=math.sqrt(5), nonlinearity="leaky_relu")


def _adapter_output(layer, x):
    left, right, share = layer.lora_A, layer.lora_B, layer.share
    if share is not None and share.factor == "lora_A":
        left = copied(left, share.cards)
    elif share is not None:
        right = copied(right, share.cards)
    return paddle.matmul(paddle.matmul(layer.lora_dropout(x), left * layer.scaling), right)


class AdaptedModel(LoRAModel):
    """paddlenlp's LoRAModel that also adds adapters to quantized layers."""

    def _find_and_replace_module(self, model, module_name, lora_config, enable_lora):
        lora_config = lora_config.of_layer(module_name)
        parent, _, name = module_name.rpartition(".")
        holder = model
        for part in parent.split("."):
            holder = getattr(holder, part)
        layer = getattr(holder, name)
        with paddle.LazyGuard():  # paddlenlp's layer would draw a weight too, which the layer's own then replaces
            if isinstance(layer, QuantizedLinear):
                setattr(holder, name, QuantizedLoRALinear(layer, lora_config))
            else:
                super()._find_and_replace_module(model, module_name, lora_config, enable_lora)
        layer = getattr(holder, name)
        if type(layer) is LoRALinear:
            layer.__class__ = NarrowLoRALinear
            if isinstance(layer.lora_dropout, nn.Dropout):
                layer.lora_dropout = Dropout(lora_config.lora_dropout)
        cut = None if model.cards is None else cut_of(module_name)
        draw_factors(layer, lora_config, None if cut is None else Share(model.cards, cut.shared_factor))

    def mark_only_lora_as_trainable(self) -> None:
        super().mark_only_lora_as_trainable()
        for layer in self.model.sublayers():
            if isinstance(layer, QuantizedLoRALinear):
                layer.lora_A.stop_gradient = layer.lora_B.stop_gradient = False


def quantization_of(model: nn.Layer) -> str | None:
    """Return the kind of a model's quantized layers, None if it has none."""
    return next((layer.kind for layer in model.sublayers() if isinstance(layer, QuantizedLinear)), None)
