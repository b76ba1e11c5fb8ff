"""What a run trains, without its weights in memory."""

from __future__ import annotations

import paddle

from ..models.config import LlavaConfig
from ..models.llava import LlavaForConditionalGeneration
from .arguments import ModelArguments
from .freeze import PROJECTOR_PARTS, freeze_as_told, lora_targets
from .memory import Trains


def outline(config: LlavaConfig, args: ModelArguments) -> Trains:
    """Decide on a model of the same parameters that hold nothing. Raises ValueError where training would."""
    with paddle.LazyGuard():
        model = LlavaForConditionalGeneration(config)
    if args.lora:
        targets = lora_targets(model, args.lora_target_modules)
        adapted = {f"{name}.{kind}" for name in targets for kind in ("weight", "bias")}
        names = [name for name, _ in model.named_parameters() if name.startswith(PROJECTOR_PARTS)]
        return Trains([] if args.freeze_mm_mlp_adapter else [name for name in names if name not in adapted], targets)
    freeze_as_told(model, args)
    names = [name for name, parameter in model.named_parameters() if not parameter.stop_gradient]
    if not names:
        raise ValueError("nothing would train: freeze_include and freeze_exclude freeze every parameter")
    return Trains(names)
