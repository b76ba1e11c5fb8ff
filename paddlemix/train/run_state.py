"""A run's state beside its weights in a checkpoint: optimizer, learning rate, loss scale and random numbers.

The files are those of paddlenlp's Trainer, which unpickles them, so that they can run anything. Here they are read as
dicts of arrays and numbers, and checked against the run before anything of it changes.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import paddle
from paddlenlp.peft import LoRAModel
from paddlenlp.trainer.trainer import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from paddlenlp.trainer.trainer_callback import TrainerState

from ..checkpoints.load import fill
from ..checkpoints.source import open_source
from ..foreign_json import OBJECT, TEXT, KeyRules, Kind, check_keys, check_values, list_of, number, whole_number
from ..output import write_json
from ..tensor_files.pdparams import read_saved, refusing
from ..tensor_files.pickle_reader import ForbiddenPickle
from ..tensor_files.stored import CheckpointError, read_json
from ..terminal.log import notice
from .best import noted_best
from .lora import load_adapter
from .optimizer_state import MASTERS, host_weights, read_optimizer, restore, write_optimizer
from .parallel import check_parts, held_parameters, together, trained_parameters
from .random_state import (
    check_schedule,
    open_random_state,
    random_state,
    random_state_name,
    read_random_state,
    read_scaler,
    read_schedule,
    write_plain,
    write_random_state,
)
from .run_folder import PREFIX

ALONE = "set ignore_load_lr_and_optim to take the weights alone"


@dataclass(frozen=True)
class _State:
    """What a process goes on from. optimizer: the argument of set_state_dict; scaler, random: None without one."""

    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    scaler: dict[str, Any] | None
    random: dict[str, Any] | None


def check_checkpoint(folder: str | None, args) -> None:
    """Raise ValueError for a checkpoint that a run cannot go on from, as far as its JSON files tell."""
    if folder is None:
        return
    check_parts(folder, args)
    check_state(folder, is_needed=not args.ignore_load_lr_and_optim)
    if args.load_best_model_at_end and not args.ignore_load_lr_and_optim:
        _check_best(folder, args.output_dir)


def _check_best(folder: str, output_dir: str) -> None:
    """Raise CheckpointError for a best checkpoint that is none; else that would be found out when training is over."""
    best = noted_best(folder, output_dir)
    try:
        if best is not None:
            check_state(best)
    except CheckpointError as error:
        raise CheckpointError(f"{best}, which {folder} names as the best checkpoint, is none: {error}") from None


def load_weights(model, folder: Path) -> None:
    """Put a checkpoint's weights into a model, or its adapter into a LoRAModel. Raises CheckpointError."""
    if isinstance(model, LoRAModel):
        load_adapter(model, folder)
        return
    fill(model, open_source(folder).tensors, folder)


def load_state(trainer, folder: Path) -> dict[str, Any] | None:
    """Take a checkpoint's state, all processes together; return this one's random state, None for a new one.

    With ignore_load_lr_and_optim nothing is taken, and only files that ask for code are refused. Raises
    CheckpointError in all processes, with the same text.
    """
    args = trainer.args
    if args.ignore_load_lr_and_optim:
        together(lambda: _refuse_code(folder, args), args.world_size)
        return None
    state = together(lambda: _read(trainer, folder), args.world_size)
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


def save_state(trainer, folder: Path) -> None:
    """Write the run's state into a folder, all processes together: each what it holds, the first one the rest."""
    args = trainer.args
    states = [random_state(bool(args.use_hybrid_parallel))]
    if args.world_size > 1:
        states = _gathered(states[0])
    folder.mkdir(parents=True, exist_ok=True)
    if args.should_save:
        write_json(folder / TRAINER_STATE_NAME, dataclasses.asdict(trainer.state))
        random = states if args.world_size > 1 else states[0]
        write_random_state(folder / random_state_name(args.world_size), random)
    if args.ignore_save_lr_and_optim:
        return
    # With sharding each process of one group holds a part, the others the same parts.
    if trainer.dp_group.rank <= 0 if args.use_hybrid_parallel else args.should_save:
        weights = host_weights(trainer.optimizer, trainer.llava.parameters(), args)
        write_optimizer(folder / _optimizer_name(args), trainer.optimizer.state_dict(), weights)
    if args.should_save:
        write_plain(folder / SCHEDULER_NAME, trainer.lr_scheduler.state_dict())
    if args.should_save and trainer.do_grad_scaling:
        write_plain(folder / SCALER_NAME, trainer.scaler.state_dict())


def _gathered(state: dict[str, Any]) -> list[dict[str, Any]]:
    states: list = []
    paddle.distributed.all_gather_object(states, state)
    return states


def _optimizer_name(args) -> str:
    """Return the name of the file with what this process holds of the optimizer's state."""
    stem, _, ending = OPTIMIZER_NAME.partition(".")
    return f"{stem}.{args.optimizer_name_suffix}.{ending}" if args.optimizer_name_suffix else OPTIMIZER_NAME


def _read(trainer, folder: Path) -> _State:
    """Read this process's part of a checkpoint; changes nothing."""
    try:
        return _read_files(trainer, folder)
    except ForbiddenPickle:
        raise
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {ALONE}") from None


def _read_files(trainer, folder: Path) -> _State:
    args, num_steps = trainer.args, read_json(folder / TRAINER_STATE_NAME)["global_step"]
    present = trainer.lr_scheduler.state_dict()
    schedule = read_schedule(_existing(folder / SCHEDULER_NAME), present, num_steps)
    scaler = read_scaler(_existing(folder / SCALER_NAME)) if trainer.do_grad_scaling else None
    random = _read_random(folder, args)
    parameters = list(trainer.llava.parameters())
    held, trained = held_parameters(trainer.optimizer, parameters, args), trained_parameters(parameters, args)
    optimizer = read_optimizer(_existing(folder / _optimizer_name(args)), held, trained, args.optim.value)
    if optimizer.schedule is not None:
        with refusing(optimizer.path):
            check_schedule(optimizer.schedule, present, num_steps)
            if optimizer.schedule != schedule:
                raise CheckpointError(f"it is of another step than {SCHEDULER_NAME} beside it")
    return _State(optimizer.tensors(), schedule, scaler, random)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    return path


def _read_random(folder: Path, args) -> dict[str, Any] | None:
    path = folder / random_state_name(args.world_size)
    if path.is_file():
        return read_random_state(path, args.process_index, args.world_size, bool(args.use_hybrid_parallel))
    if args.process_index == 0:
        notice(f"{path} is missing: the run goes on with other random numbers than it would have had")
    return None


def _refuse_code(folder: Path, args) -> None:
    """Raise CheckpointError for files that ask for more than arrays and plain values; damage does no harm here."""
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


STATE_RULES = KeyRules(
    used=frozenset(item.name for item in dataclasses.fields(TrainerState)),
    # What transformers' Trainer keeps there besides.
    inert=frozenset(
        "eval_steps is_hyper_param_search logging_steps num_input_tokens_seen save_steps train_batch_size".split()
    ),
)
STEPS = whole_number(0, 1 << 40)
STATE_KINDS: dict[str, Kind] = {
    "best_metric": number(-1e300, 1e300).or_null(),
    "best_model_checkpoint": TEXT.or_null(),
    "consumed_samples": STEPS,
    "epoch": number(0.0, 1e12).or_null(),
    "global_step": whole_number(1, 1 << 40),
    "log_history": list_of(OBJECT, least=0, most=1 << 30).or_null(),
    "max_steps": STEPS,
    "num_train_epochs": number(0.0, 1e12),
    "total_flos": number(0.0, 1e300),
}


def check_state(checkpoint, *, is_needed: bool = True) -> None:
    """Raise CheckpointError for a trainer_state.json that a trainer does not write, or not into this folder.

    is_needed: without the file a run would begin at step 1 with the checkpoint's weights.
    """
    path = Path(checkpoint) / TRAINER_STATE_NAME
    if not path.is_file():
        if not is_needed:
            return
        raise CheckpointError(
            f"{path} is missing: a run cannot go on from the checkpoint; set ignore_load_lr_and_optim to take the "
            "weights alone"
        )
    values = read_json(path)
    check_keys(values, STATE_RULES, str(path), CheckpointError)
    check_values({"global_step": None, **values}, STATE_KINDS, str(path), CheckpointError)
    named = re.fullmatch(rf"{PREFIX}(\d{{1,18}})", Path(checkpoint).absolute().name)
    if named and int(named[1]) != values["global_step"]:
        raise CheckpointError(f"{path} is of step {values['global_step']}, its folder is named after another one")


def num_done_steps(checkpoint, args) -> int:
    """Return how many steps a resumed run has behind it, 0 where it counts anew."""
    if not checkpoint or args.ignore_load_lr_and_optim:
        return 0
    path = Path(checkpoint) / TRAINER_STATE_NAME
    return read_json(path)["global_step"] if path.is_file() else 0
