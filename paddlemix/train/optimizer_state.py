"""An optimizer's state in a checkpoint: `optimizer.pdopt`, or a file for each process that holds a part of it.

Reading runs nothing that is in the file, and takes from it what the run's own optimizer needs, no more and no less:
Paddle itself would begin anew with what it does not find, or fail at the first step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddlenlp.trainer.trainer_utils import ShardingOption

from ..checkpoints.save import stored_parameters
from ..output import replacing
from ..tensor_files.pdparams import NAME_TABLE, named_arrays, read_saved, refusing, stored_array, write_saved
from ..tensor_files.stored import CheckpointError, StoredTensor, preview
from .parallel import SLICE, Held, is_half

MASTERS, SCHEDULE = "master_weights", "LR_Scheduler"
LARGEST = float(np.finfo(np.float32).max)
# What AdamW keeps of a parameter: the least and the largest value.
ACCUMULATORS = {
    "moment1": (-LARGEST, LARGEST),
    "moment2": (0.0, LARGEST),
    "beta1_pow_acc": (0.0, 1.0),
    "beta2_pow_acc": (0.0, 1.0),
}
POWERS = ("beta1_pow_acc", "beta2_pow_acc")  # one number a parameter
MINI, HALF_MOMENTS = "adamw_mini", "adamw_16bit_moment"  # args.optim: moment2 is one number; moments may be half


@dataclass(frozen=True)
class OptimizerState:
    """What a file holds, still in the file. masters: name -> (name of the tensor, float32 weight)."""

    path: Path
    accumulators: dict[str, StoredTensor]
    masters: dict[str, tuple[str, StoredTensor]]
    schedule: Any

    def tensors(self) -> dict[str, Any]:
        """Return the argument of `set_state_dict`, without the schedule. Raises CheckpointError for wrong numbers."""
        state: dict[str, Any] = {name: self._tensor(name, stored) for name, stored in self.accumulators.items()}
        masters = {}
        for name, (own_name, stored) in self.masters.items():
            masters[name] = self._tensor(f"{MASTERS}[{name!r}]", stored)
            masters[name].name = own_name  # Paddle looks its moments up by it
        return {**state, MASTERS: masters} if masters else state

    def _tensor(self, name: str, stored: StoredTensor) -> paddle.Tensor:
        values = stored.values
        kind = next((kind for kind in ACCUMULATORS if name.endswith(f"_{kind}_0")), None)
        least, most = ACCUMULATORS.get(kind, (-LARGEST, LARGEST))
        tensor = paddle.to_tensor(values)  # NumPy has no bfloat16: Paddle takes uint16 for it
        numbers = values if stored.dtype == "float32" else tensor.astype("float32").numpy()
        if numbers.size and not (least <= numbers.min() and numbers.max() <= most):  # false for what is no number
            raise CheckpointError(f"{self.path}: {name} holds numbers that no run of AdamW comes to")
        return tensor


def read_optimizer(path: Path, held: Sequence[Held], trained: Sequence[Held], optim: str) -> OptimizerState:
    """Read the state of what a process holds. Raises CheckpointError for a file of anything else.

    held: what the optimizer of this process moves; trained: all that trains; optim: the setting.
    """
    with refusing(path):
        accumulators, masters, schedule = _read(path)
        _check_masters(masters, held, trained)
        owners = {one: _owner(one, masters, accumulators) for one in held}
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


def _check_masters(masters: Mapping[str, tuple], held: Sequence[Held], trained: Sequence[Held]) -> None:
    """Check float32 copies of half weights: of each that this process moves, of what trains only, of its shape."""
    shapes = {one.name: one.shape for one in (*trained, *held)}
    known = {**shapes, **{SLICE + name: shape for name, shape in shapes.items()}}
    foreign = sorted(set(masters) - set(known))
    if foreign:
        raise CheckpointError(f"it holds {MASTERS} of what does not train here: {preview(foreign, 5)}")
    for key, (_, stored) in masters.items():
        if stored.dtype != "float32" or stored.shape != known[key]:
            raise CheckpointError(
                f"{MASTERS}[{key!r}] has dtype {stored.dtype} and shape {list(stored.shape)}, expected float32 and "
                f"{list(known[key])}"
            )
    absent = [one.name for one in held if one.needs_master and not {one.name, SLICE + one.name} & set(masters)]
    if absent:
        raise CheckpointError(f"it lacks {MASTERS} of {len(absent)} weights in half precision: {preview(absent, 5)}")


def _owner(one: Held, masters: Mapping[str, tuple], accumulators: Mapping[str, StoredTensor]) -> str:
    """Return the name of the tensor that a parameter's moments are of: itself, its slice, or its float32 copy."""
    for key in (one.name, SLICE + one.name):
        if key in masters and one.needs_master:
            return masters[key][0]
    return next((name for name in (one.name, SLICE + one.name) if f"{name}_moment1_0" in accumulators), one.name)


def _check_names(accumulators: Mapping[str, StoredTensor], owners: Mapping[Held, str]) -> None:
    wanted = {f"{owner}_{kind}_0" for owner in owners.values() for kind in ACCUMULATORS}
    problems = []
    for names, words in ((wanted - set(accumulators), "are missing"), (set(accumulators) - wanted, "are of others")):
        if names:
            problems.append(f"{len(names)} {words}: {preview(sorted(names), 5)}")
    if problems:
        raise CheckpointError(f"it is not the state of the parameters that train here; {'; '.join(problems)}")


def _check_shapes(accumulators: Mapping[str, StoredTensor], owners: Mapping[Held, str], optim: str) -> None:
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
    """Write what `state_dict` of an optimizer returned, one tensor after the other, as paddle.load reads it.

    host_weights: float32 weights that belong to it besides, see `offload`.
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
    """Return the weights by name: stage 2 has one buffer, stage 3 one for each parameter; {} without offload."""
    if args.world_size <= 1 or ShardingOption.OFFLOAD not in args.sharding:
        return {}
    if ShardingOption.SHARD_GRAD_OP in args.sharding:
        buffer = optimizer.offload_params.buffer
        return {buffer.name: buffer}
    return {one.name: one.master_weight for one in parameters if not one.stop_gradient and is_half(one)}


@paddle.no_grad()
def restore(weights: Mapping[str, paddle.Tensor], masters: Mapping[str, Any]) -> None:
    """Put back what a checkpoint holds of the weights; one of an earlier version may hold none."""
    for name, tensor in weights.items():
        if name in masters:
            # NOTE: in place, because stage 2 has views of its buffer; `set_value` would give it other memory.
            tensor.zero_()
            tensor.add_(masters[name].cpu())
