"""The state of a run in a checkpoint, beside its weights: optimizer, learning rate, loss scale and random numbers.

The files are those of paddlenlp's Trainer. It unpickles them, which can run any code in them. Here they are read as
dicts of arrays and numbers, and checked before anything of the run changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from paddlenlp.trainer.trainer import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from ..foreign_json import FLAG, Kind, check_values, number, whole_number
from ..output import replacing, write_json
from ..tensor_files.pdparams import NAME_TABLE, read_saved, stored_array, write_saved
from ..tensor_files.pickle_reader import ForbiddenPickle
from ..tensor_files.stored import CheckpointError, from_array, read_json, refusing
from ..terminal.log import notice
from .optimizer import MASTERS, host_weights, read_optimizer, restore, write_optimizer
from .processes import fail_together, gather
from .random_state import open_random_state, random_state, random_state_name, read_random_state, write_random_state
from .sharding import trained_parameters, updated_parameters

WITHOUT_STATE = "set ignore_load_lr_and_optim to take the weights alone"
PLAIN = (bool, int, float, str, type(None))
COUNT = whole_number(0, 1 << 40)
SCALER: dict[str, Kind] = {
    "incr_ratio": number(1.0, 1e30),
    "decr_ratio": number(0.0, 1.0, is_open=True),
    "incr_every_n_steps": whole_number(1, 1 << 40),
    "decr_every_n_nan_or_inf": whole_number(1, 1 << 40),
    "incr_count": COUNT,
    "decr_count": COUNT,
    "use_dynamic_loss_scaling": FLAG,
}
SCALE = number(0.0, float(np.finfo(np.float32).max), is_open=True)


def save_state(trainer, folder: Path) -> None:
    """Write the run's state into a folder, all processes together: each its part, the first process the rest."""
    args = trainer.args
    states = gather(random_state(bool(args.use_hybrid_parallel)), args.world_size)
    if args.should_save:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / TRAINER_STATE_NAME, dataclasses.asdict(trainer.state))
        random = states if args.world_size > 1 else states[0]
        write_random_state(folder / random_state_name(args.world_size), random)
    if args.ignore_save_lr_and_optim:
        return
    # With sharding each process of one group has a part, and the other groups have the same parts.
    if trainer.dp_group.rank <= 0 if args.use_hybrid_parallel else args.should_save:
        weights = host_weights(trainer.optimizer, trainer.llava.parameters(), args)
        write_optimizer(folder / _optimizer_name(args), trainer.optimizer.state_dict(), weights)
    if args.should_save:
        write_plain(folder / SCHEDULER_NAME, trainer.lr_scheduler.state_dict())
    if args.should_save and trainer.do_grad_scaling:
        write_plain(folder / SCALER_NAME, trainer.scaler.state_dict())


def load_state(trainer, folder: Path) -> dict[str, Any] | None:
    """Restore a checkpoint's state, all processes together; return this process's random state, None for none.

    With ignore_load_lr_and_optim nothing is restored, and only files that ask for code are refused. Raises
    CheckpointError in all processes, with the same text.
    """
    args = trainer.args
    if args.ignore_load_lr_and_optim:
        fail_together(lambda: _refuse_code(folder, args), args.world_size)
        return None
    state = fail_together(lambda: _read(trainer, folder), args.world_size)
    optimizer, weights = state.optimizer, host_weights(trainer.optimizer, trainer.llava.parameters(), args)
    if weights:
        optimizer = {name: value for name, value in optimizer.items() if name != MASTERS}
        restore(weights, state.optimizer.get(MASTERS, {}))
    trainer.optimizer.set_state_dict({**optimizer, "LR_Scheduler": state.schedule})
    trainer.lr_scheduler.set_state_dict(state.schedule)
    if state.scaler is not None:
        trainer.scaler.load_state_dict(state.scaler)
    if args.offload_optim:
        trainer._offload_optimizer()
    return state.random


@dataclass(frozen=True)
class _State:
    """The state of a process. optimizer: the argument of set_state_dict. scaler, random: None if there is none."""

    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    scaler: dict[str, Any] | None
    random: dict[str, Any] | None


def _read(trainer, folder: Path) -> _State:
    """Read this process's part of a checkpoint without changing anything."""
    try:
        return _read_files(trainer, folder)
    except ForbiddenPickle:
        raise
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {WITHOUT_STATE}") from None


def _read_files(trainer, folder: Path) -> _State:
    args, num_steps = trainer.args, read_json(folder / TRAINER_STATE_NAME)["global_step"]
    present = trainer.lr_scheduler.state_dict()
    schedule = read_schedule(_existing(folder / SCHEDULER_NAME), present, num_steps)
    scaler = read_scaler(_existing(folder / SCALER_NAME)) if trainer.do_grad_scaling else None
    random = _read_random(folder, args)
    parameters = list(trainer.llava.parameters())
    updated, trained = updated_parameters(trainer.optimizer, parameters, args), trained_parameters(parameters, args)
    optimizer = read_optimizer(_existing(folder / _optimizer_name(args)), updated, trained, args.optim.value)
    if optimizer.schedule is not None:
        with refusing(optimizer.path):
            check_schedule(optimizer.schedule, present, num_steps)
            if optimizer.schedule != schedule:
                raise CheckpointError(f"it is of another step than {SCHEDULER_NAME} beside it")
    return _State(optimizer.tensors(), schedule, scaler, random)


def _optimizer_name(args) -> str:
    """Return the name of the file with this process's part of the optimizer's state."""
    stem, _, ending = OPTIMIZER_NAME.partition(".")
    return f"{stem}.{args.optimizer_name_suffix}.{ending}" if args.optimizer_name_suffix else OPTIMIZER_NAME


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    return path


def _read_random(folder: Path, args) -> dict[str, Any] | None:
    path = folder / random_state_name(args.world_size)
    if path.is_file():
        return read_random_state(path, args.process_index, args.world_size, bool(args.use_hybrid_parallel))
    if args.process_index == 0:
        notice(f"{path} is missing: the run continues with other random numbers than it would have had")
    return None


def _refuse_code(folder: Path, args) -> None:
    """Raise ForbiddenPickle for files that ask for more than arrays and plain values; other damage does no harm."""
    readers = dict.fromkeys((_optimizer_name(args), SCHEDULER_NAME, SCALER_NAME), read_saved)
    readers[random_state_name(args.world_size)] = partial(open_random_state, num_processes=args.world_size)
    for path, read in ((folder / name, read) for name, read in readers.items() if (folder / name).is_file()):
        try:
            with refusing(path):
                read(path)
        except ForbiddenPickle:
            raise
        except CheckpointError as error:
            notice(f"{error}; it is not needed")


def read_schedule(path: Path, present: Mapping[str, Any], num_steps: int) -> dict[str, Any]:
    """Read the state of a learning rate schedule. Raises CheckpointError for any other file. See `check_schedule`."""
    with refusing(path):
        values = _read_dict(path)
        check_schedule(values, present, num_steps)
        return values


def check_schedule(values: Any, present: Mapping[str, Any], num_steps: int) -> None:
    """Raise CheckpointError for values that are not a schedule's state after num_steps. present: the run's state."""
    _check_plain(values, sorted(present))
    kinds = {"last_epoch": whole_number(0, num_steps), "last_lr": number(0.0, 1e300)}
    check_values(values, kinds, "its schedule", CheckpointError)


def read_scaler(path: Path) -> dict[str, Any]:
    """Read the state of a loss scale, for `load_state_dict`. Raises CheckpointError for any other file."""
    with refusing(path):
        values = _read_dict(path)
        stored = stored_array(path, "scale", values.pop("scale", None))
        _check_plain(values, sorted(SCALER))
        if stored.shape != (1,):
            raise CheckpointError(f"its scale has shape {list(stored.shape)}, expected one number")
        scale = stored.values.astype(np.float32)
        check_values({**values, "scale": float(scale[0])}, {**SCALER, "scale": SCALE}, "its scale", CheckpointError)
        return {**values, "scale": scale}


def _read_dict(path: Path) -> dict[str, Any]:
    values = read_saved(path)
    if not isinstance(values, dict):
        raise CheckpointError(f"it holds a {type(values).__name__}, expected a dict")
    return {key: value for key, value in values.items() if key != NAME_TABLE}


def _check_plain(values: Any, expected: list[str]) -> None:
    """Check for a dict with these keys and plain values; others could take forever to compare or to print."""
    if not isinstance(values, dict) or sorted(map(str, values)) != expected:
        found = ", ".join(map(str, values)) if isinstance(values, dict) else f"a {type(values).__name__}"
        raise CheckpointError(f"it holds {found[:200] or 'nothing'}, expected {', '.join(expected)}")
    for key, value in values.items():
        if not isinstance(value, PLAIN):
            raise CheckpointError(f"{key} is a {type(value).__name__}, expected a number")


def write_plain(path: Path, values: Mapping[str, Any]) -> None:
    """Write the state of a schedule or a loss scale in the format of paddle.load."""
    items = {key: from_array(value) if isinstance(value, np.ndarray) else value for key, value in values.items()}
    with replacing(path) as file:
        write_saved(file, items)
