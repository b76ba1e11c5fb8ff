"""AdamW: parts of the model may have rates of their own, biases and norms do not decay."""

from __future__ import annotations

from paddle import nn
from paddle.utils import unique_name
from paddlenlp.trainer import Trainer

from ..models.llava import LlavaForConditionalGeneration
from .freeze import PROJECTOR_PARTS, TOWER_PARTS
from .parallel import SLICE


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
        # Not by groups of parameters, which sharding over processes does not take.
        tensor.optimize_attr["learning_rate"] = rate_factor(name, args, lora_plus_scale)
    decayed = {tensor.name for name, tensor in named if not ("bias" in name or "norm" in name)}
    decayed |= {SLICE + name for name in decayed}
    return kind(
        learning_rate=lr_scheduler,
        parameters=[tensor for _, tensor in named],
        weight_decay=args.weight_decay,
        apply_decay_param_fun=decayed.__contains__,
        grad_clip=nn.ClipGradByGlobalNorm(args.max_grad_norm) if args.max_grad_norm > 0 else None,
        **options,
    )


def rate_factor(name: str, args, lora_plus_scale: float = 1.0) -> float:
    """Return what learning_rate is multiplied by for a parameter. Raises ValueError where it is 0 and cannot be."""
    rates = {PROJECTOR_PARTS: args.mm_projector_lr, TOWER_PARTS: args.mm_vision_tower_lr}
    rate = next((rate for parts, rate in rates.items() if rate is not None and name.startswith(parts)), None)
    if rate is not None and args.learning_rate <= 0:
        raise ValueError(
            f"mm_projector_lr {args.mm_projector_lr} and mm_vision_tower_lr {args.mm_vision_tower_lr} need a "
            f"learning_rate above 0, found {args.learning_rate}"
        )
    factor = 1.0 if rate is None else rate / args.learning_rate
    return factor * lora_plus_scale if name.endswith("lora_B") else factor
