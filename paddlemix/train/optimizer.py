"""AdamW with a learning rate for each part of the model, and its state in a checkpoint.

The state is `optimizer.pdopt`, or one such file for each process that has a part of it. Reading a file runs no code in
it, and requires exactly what the run's own optimizer needs. Paddle itself would start afresh with what is missing, or
fail at the first step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.utils import unique_name
from paddlenlp.trainer import Trainer
from paddlenlp.trainer.trainer_utils import ShardingOption

from ..checkpoints.save import stored_parameters
from ..models.llava import Llava
from ..output import replacing
from ..tensor_files.pdparams import NAME_TABLE, named_arrays, read_saved, stored_array, write_saved
from ..tensor_files.stored import CheckpointError, StoredTensor, preview, refusing
from .freeze import PROJECTOR_PARTS, TOWER_PARTS
from .sharding import SLICE, UpdatedParameter, is_half

MASTERS, SCHEDULE = "master_weights", "LR_Scheduler"
LARGEST = float(np.finfo(np.float32).max)
# AdamW's state of a parameter, with the least and the largest value of each kind.
ACCUMULATORS = {
    "moment1": (-LARGEST, LARGEST),
    "moment2": (0.0, LARGEST),
    "beta1_pow_acc": (0.0, 1.0),
    "beta2_pow_acc": (0.0, 1.0),
}
POWERS = ("beta1_pow_acc", "beta2_pow_acc")  # one number a parameter
# Values of args.optim: moment2 is a single number; the moments may have half precision.
MINI, HALF_MOMENTS = "adamw_mini", "adamw_16bit_moment"


def build_optimizer(model: Llava, args, lr_scheduler, *, lora_plus_scale: float):
    """Return the optimizer of the parameters that train; biases and norms do not decay.

    Raises ValueError for learning rates that do not go together.
    """
    kind, options = Trainer.get_optimizer_cls_and_kwargs(args)
    if hasattr(kind, "_create_master_weight") and args.fp16_opt_level == "O2":
        options["multi_precision"] = True
    named = [(name, tensor) for name, tensor in model.named_parameters() if not tensor.stop_gradient]
    # The saved state goes by names, and Paddle's own names count the parameters that a process has made so far.
    unique_name.switch()
    for name, tensor in named:
        tensor.name = name
        # Sharding does not accept groups of parameters.
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
    """Return a parameter's factor of learning_rate. Raises ValueError if learning_rate is 0 and another rate is set."""
    rates = {PROJECTOR_PARTS: args.mm_projector_lr, TOWER_PARTS: args.mm_vision_tower_lr}
    rate = next((rate for parts, rate in rates.items() if rate is not None and name.startswith(parts)), None)
    if rate is not None and args.learning_rate <= 0:
        raise ValueError(
            f"mm_projector_lr {args.mm_projector_lr} and mm_vision_tower_lr {args.mm_vision_tower_lr} need a "
            f"learning_rate above 0, found {args.learning_rate}"
        )
    factor = 1.0 if rate is None else rate / args.learning_rate
    return factor * lora_plus_scale if name.endswith("lora_B") else factor


@dataclass(frozen=True)
class OptimizerState:
    """The contents of a file, not read into memory yet. masters: name -> (name of the tensor, float32 weight)."""

    path: Path
    accumulators: dict[str, StoredTensor]
    masters: dict[str, tuple[str, StoredTensor]]
    schedule: Any

    def tensors(self) -> dict[str, Any]:
        """Return the argument of `set_state_dict`, without a schedule. Raises CheckpointError for impossible values."""
        state: dict[str, Any] = {name: self._tensor(name, stored) for name, stored in self.accumulators.items()}
        masters = {}
        for name, (tensor_name, stored) in self.masters.items():
            masters[name] = self._tensor(f"{MASTERS}[{name!r}]", stored)
            masters[name].name = tensor_name  # Paddle looks up its moments by this name
        return {**state, MASTERS: masters} if masters else state

    def _tensor(self, name: str, stored: StoredTensor) -> paddle.Tensor:
        values = stored.values
        kind = next((kind for kind in ACCUMULATORS if name.endswith(f"_{kind}_0")), None)
        least, most = ACCUMULATORS.get(kind, (-LARGEST, LARGEST))
        tensor = paddle.to_tensor(values)  # NumPy has no bfloat16: Paddle takes uint16 for it
        numbers = values if stored.dtype == "float32" else tensor.astype("float32").numpy()
        if numbers.size and not (least <= numbers.min() and numbers.max() <= most):  # not true for NaN
            raise CheckpointError(f"{self.path}: {name} holds numbers that AdamW cannot produce")
        return tensor


def read_optimizer(
    path: Path, updated: Sequence[UpdatedParameter], trained: Sequence[UpdatedParameter], optim: str
) -> OptimizerState:
    """Read the state of a process's optimizer. Raises CheckpointError for any other file.

    updated: the parameters that the optimizer of this process updates. trained: all that train. optim: the setting.
    """
    with refusing(path):
        accumulators, masters, schedule = _read(path)
        _check_masters(masters, updated, trained)
        owners = {one: _owner(one, masters, accumulators) for one in updated}
        _check_names(accumulators, owners)
        _check_shapes(accumulators, owners, optim)
    return OptimizerState(path, accumulators, masters, schedule)


def _read(path: Path) -> tuple[dict[str, StoredTensor], dict[str, tuple[str, StoredTensor]], Any]:
    values = read_saved(path)
    if not isinstance(values, dict):
        raise CheckpointError(f"it holds a {type(values).__name__}, expected a dict of arrays")
    arrays = {key: value for key, value in values.items() if key not in (MASTERS, SCHEDULE)}
    masters = values.get(MASTERS, {})
    if not isinstance(masters, dict):
        raise CheckpointError(f"its {MASTERS} is a {type(masters).__name__}, expected a dict of arrays")
    named = {}
    for key, value in masters.items():
        if key == NAME_TABLE:
            continue
        has_name = isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)
        named[key] = (value[0] if has_name else f"{key}_fp32_master_0", stored_array(path, key, value))
    return named_arrays(path, arrays), named, values.get(SCHEDULE)


def _check_masters(
    masters: Mapping[str, tuple], updated: Sequence[UpdatedParameter], trained: Sequence[UpdatedParameter]
) -> None:
    """Check the float32 copies of half weights: none is missing, all train, and they have the right shapes."""
    shapes = {one.name: one.shape for one in (*trained, *updated)}
    known = {**shapes, **{SLICE + name: shape for name, shape in shapes.items()}}
    unknown = sorted(set(masters) - set(known))
    if unknown:
        raise CheckpointError(f"it has {MASTERS} of tensors that do not train here: {preview(unknown, 5)}")
    for key, (_, stored) in masters.items():
        if stored.dtype != "float32" or stored.shape != known[key]:
            raise CheckpointError(
                f"{MASTERS}[{key!r}] has dtype {stored.dtype} and shape {list(stored.shape)}, expected float32 and "
                f"{list(known[key])}"
            )
    missing = [one.name for one in updated if one.needs_master and not {one.name, SLICE + one.name} & set(masters)]
    if missing:
        raise CheckpointError(f"it lacks {MASTERS} of {len(missing)} weights in half precision: {preview(missing, 5)}")


def _owner(one: UpdatedParameter, masters: Mapping[str, tuple], accumulators: Mapping[str, StoredTensor]) -> str:
    """Return the name of the tensor that a parameter's moments belong to: itself, its slice, or its float32 copy."""
    for key in (one.name, SLICE + one.name):
        if key in masters and one.needs_master:
            return masters[key][0]
    return next((name for name in (one.name, SLICE + one.name) if f"{name}_moment1_0" in accumulators), one.name)


def _check_names(accumulators: Mapping[str, StoredTensor], owners: Mapping[UpdatedParameter, str]) -> None:
    wanted = {f"{owner}_{kind}_0" for owner in owners.values() for kind in ACCUMULATORS}
    problems = []
    for names, words in ((wanted - set(accumulators), "are missing"), (set(accumulators) - wanted, "are unrecognized")):
        if names:
            problems.append(f"{len(names)} {words}: {preview(sorted(names), 5)}")
    if problems:
        raise CheckpointError(f"it is not the state of the parameters that train here; {'; '.join(problems)}")


def _check_shapes(accumulators: Mapping[str, StoredTensor], owners: Mapping[UpdatedParameter, str], optim: str) -> None:
    for one, owner in owners.items():
        for kind in ACCUMULATORS:
            stored = accumulators[f"{owner}_{kind}_0"]
            is_single = kind in POWERS or (kind == "moment2" and optim == MINI)
            shape = (1,) if is_single else one.shape
            dtypes = ("float32", "float16", "bfloat16") if optim == HALF_MOMENTS else ("float32",)
            if stored.shape != shape or stored.dtype not in dtypes:
                raise CheckpointError(
                    f"{kind} of {owner} has dtype {stored.dtype} and shape {list(stored.shape)}, expected "
                    f"{' or '.join(dtypes)} and {list(shape)}"
                )


def write_optimizer(path: Path, state: Mapping[str, Any], host_weights: Mapping[str, paddle.Tensor]) -> None:
    """Write an optimizer's `state_dict`, one tensor after the other, in the format of paddle.load.

    host_weights: the float32 weights of an offloaded optimizer, see `host_weights`.
    """
    masters = {**state.get(MASTERS, {}), **host_weights}
    tensors = {name: value for name, value in state.items() if name not in (MASTERS, SCHEDULE)}
    values: dict[str, Any] = {name: (name, tensor) for name, tensor in stored_parameters(tensors).items()}
    if masters:
        named = stored_parameters(masters)
        values[MASTERS] = {name: (masters[name].name, tensor) for name, tensor in named.items()}
    if SCHEDULE in state:
        values[SCHEDULE] = state[SCHEDULE]
    with replacing(path) as file:
        write_saved(file, values)


def host_weights(optimizer, parameters: Iterable[paddle.Tensor], args) -> dict[str, paddle.Tensor]:
    """Return the float32 weights that sharding with offload keeps in host memory, by name; {} without offload.

    Stage 2 has one buffer for all of them, stage 3 one for each parameter.
    """
    if args.world_size <= 1 or ShardingOption.OFFLOAD not in args.sharding:
        return {}
    if ShardingOption.SHARD_GRAD_OP in args.sharding:
        buffer = optimizer.offload_params.buffer
        return {buffer.name: buffer}
    return {one.name: one.master_weight for one in parameters if not one.stop_gradient and is_half(one)}


@paddle.no_grad()
def restore(weights: Mapping[str, paddle.Tensor], masters: Mapping[str, Any]) -> None:
    """Restore host weights from a checkpoint; one of an earlier version may have none."""
    for name, tensor in weights.items():
        if name in masters:
            # NOTE: in place, because stage 2 has views of its buffer; `set_value` would move it to other memory.
            tensor.zero_()
            tensor.add_(masters[name].cpu())
