"""LoRA through paddlenlp's peft, in PaddleMIX's file format."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import re
from pathlib import Path

import paddle
from paddlenlp.peft import LoRAConfig, LoRAModel

from ..checkpoints import lora as adapter_files
from ..checkpoints.files import StoredTensor
from ..checkpoints.load import put
from ..log import notice
from ..models.llava import LlavaForConditionalGeneration
from ..output import replacing, write_json
from .arguments import ModelArguments
from .freeze import PROJECTOR_PARTS, lora_targets
from .lora_layers import AdaptedModel, quantization_of


def add_lora(model: LlavaForConditionalGeneration, args: ModelArguments, dtype: str, *, base: str) -> LoRAModel:
    """Put adapters into the matching layers; they, the projector and image_newline train, and nothing else.

    base: folder of the model, which the adapter's config will name. Raises ValueError if no layer matches.
    """
    targets = lora_targets(model, args.lora_target_modules)
    config = LoRAConfig(
        target_modules=[name.replace(".", r"\.") for name in targets],
        r=args.lora_rank,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        rslora=args.rslora,
        lora_plus_scale=args.lora_plus_scale,
        dtype=dtype,
        tensor_parallel_degree=1,
        base_model_name_or_path=os.path.abspath(base),
    )
    wrapped = AdaptedModel(model, config)
    wrapped.mark_only_lora_as_trainable()
    # A layer of the projector that has an adapter is trained through it.
    adapted = {f"{name}.{kind}" for name in targets for kind in ("weight", "bias")}
    for name, parameter in model.named_parameters():
        if name.startswith(PROJECTOR_PARTS) and not args.freeze_mm_mlp_adapter and name not in adapted:
            parameter.stop_gradient = False
    if args.lora_path:
        load_adapter(wrapped, Path(args.lora_path))
    return wrapped


def trained_tensors(wrapped: LoRAModel) -> dict[str, paddle.Tensor]:
    """Return name -> tensor of everything that trains, by our names."""
    return {name: tensor for name, tensor in wrapped.model.named_parameters() if not tensor.stop_gradient}


def save_adapter(wrapped: LoRAModel, folder: Path) -> None:
    """Write lora_model_state.pdparams and lora_config.json with PaddleMIX's names and keys."""
    config = wrapped.model.config
    tensors = {adapter_files.to_paddlemix_name(name, config): value for name, value in trained_tensors(wrapped).items()}
    buffer = io.BytesIO()  # paddle.save takes no open file
    paddle.save(tensors, buffer)
    with replacing(folder / adapter_files.WEIGHTS) as file:
        file.write(buffer.getbuffer())
    values = dataclasses.asdict(wrapped.lora_config)
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
    """Read an adapter back into the layers that it was trained in. Raises ValueError if its tensors are not these."""
    noted, kind = adapter_files.quantization_of(folder), quantization_of(wrapped.model)
    if noted != kind:
        before, now = (name or "unquantised" for name in (noted, kind))
        notice(f"{folder} was trained over {before} weights and goes on over {now} ones")
    stored: dict[str, StoredTensor] = adapter_files.read_adapter(folder, wrapped.model.config)
    parameters = dict(wrapped.model.named_parameters())
    wanted = set(trained_tensors(wrapped))
    if set(stored) != wanted or any(tuple(parameters[name].shape) != stored[name].shape for name in wanted):
        missing, extra = sorted(wanted - set(stored)), sorted(set(stored) - wanted)
        raise ValueError(
            f"the adapter in {folder} does not fit this run's LoRA settings: missing {missing[:5]}, extra {extra[:5]}, "
            "or of another rank"
        )
    _check_scaling(wrapped, folder)
    for name in wanted:
        put(parameters[name], stored[name], False)


def _check_scaling(wrapped: LoRAModel, folder: Path) -> None:
    """Raise ValueError where an adapter would change its base more or less than it did in its own training."""
    before, now = adapter_files.scaling_of(folder), wrapped.lora_config.scaling
    if not math.isclose(before, now, rel_tol=1e-6):
        raise ValueError(
            f"the adapter in {folder} is scaled by {before:g} (lora_alpha over lora_rank, or over its root with "
            f"rslora), and by these settings it would be by {now:g}: another model. Take lora_alpha and rslora from "
            f"{folder / adapter_files.CONFIG}"
        )
