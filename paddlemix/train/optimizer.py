"""AdamW with groups: parts of the model may have rates of their own, biases and norms do not decay."""

from __future__ import annotations

from paddle import nn
from paddle.utils import unique_name
from paddlenlp.trainer import Trainer

from ..models.llava import LlavaForConditionalGeneration
from .freeze import PROJECTOR_PARTS, TOWER_PARTS


def build_optimizer(model: LlavaForConditionalGeneration, args, lr_scheduler, *, lora_plus_scale: float):
    """Return the optimizer of what trains. Raises ValueError for rates that do not go together."""
    kind, options = Trainer.get_optimizer_cls_and_kwargs(args)
    if hasattr(kind, "_create_master_weight") and args.fp16_opt_level == "O2":
        options["multi_precision"] = True
    named = [(name, tensor) for name, tensor in model.named_parameters() if not tensor.stop_gradient]
    # The saved state goes by names, and Paddle's count what a process has made so far.
    unique_name.switch()
    for name, tensor in named:
        tensor.name = name
    decayed = {tensor.name for name, tensor in named if not ("bias" in name or "norm" in name)}
    return kind(
        learning_rate=lr_scheduler,
        parameters=_groups(named, args, lora_plus_scale),
        weight_decay=args.weight_decay,
        apply_decay_param_fun=decayed.__contains__,
        grad_clip=nn.ClipGradByGlobalNorm(args.max_grad_norm) if args.max_grad_norm > 0 else None,
        **options,
    )


def _groups(named, args, lora_plus_scale: float) -> list[dict]:
    """Return optimizer groups; Paddle takes a group's learning rate as a factor of the optimizer's, hence not of 0."""
    rates = {PROJECTOR_PARTS: args.mm_projector_lr, TOWER_PARTS: args.mm_vision_tower_lr}
    rates = {parts: rate for parts, rate in rates.items() if rate is not None}
    if rates and args.learning_rate <= 0:
        raise ValueError(
            f"mm_projector_lr {args.mm_projector_lr} and mm_vision_tower_lr {args.mm_vision_tower_lr} need a "
            f"learning_rate above 0, found {args.learning_rate}"
        )
    groups: dict[float, list] = {}
    for name, tensor in named:
        factor = next((rate / args.learning_rate for parts, rate in rates.items() if name.startswith(parts)), 1.0)
        factor *= lora_plus_scale if name.endswith("lora_B") else 1.0
        groups.setdefault(factor, []).append(tensor)
    return [{"params": params, "learning_rate": factor} for factor, params in groups.items()]
