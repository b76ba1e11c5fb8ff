"""Where a run starts: from the model, from a checkpoint, or not at all because it is finished.

Also the parts of a checkpoint that are read first: trainer_state.json, the best checkpoint that it names, the weights.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paddlenlp.peft import LoRAModel
from paddlenlp.trainer.trainer_callback import TrainerState

from ..checkpoints.load import fill
from ..checkpoints.output_folder import MODEL_FILES, NOTE
from ..checkpoints.source import open_source
from ..foreign_json import OBJECT, TEXT, KeyRules, Kind, check_keys, check_values, list_of, number, whole_number
from ..tensor_files.stored import CheckpointError, read_json
from ..terminal.log import notice
from .config_file import LAST
from .lora import load_adapter
from .node_folders import check_same_start
from .processes import fail_together, is_true_anywhere
from .run_facts import LEARNING, MUST_MATCH, ORDER, check_checkpoint_facts, check_facts
from .run_folder import PREFIX, STATE, last_checkpoint
from .run_state import WITHOUT_STATE
from .sharding import check_division

FINISHED = "finished"  # in the folder's note: the last step of a finished run, and its facts
STATE_RULES = KeyRules(
    used=frozenset(item.name for item in dataclasses.fields(TrainerState)),
    # Keys that transformers' Trainer adds.
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


def find_start(trainer, args) -> Path | str | None:
    """Return the checkpoint to resume from, None to start from the model, FINISHED if there is nothing left to do.

    Raises ValueError, in all processes, for a checkpoint that does not exist or is of a run with other settings.
    """
    is_first = trainer.is_world_process_zero()
    checkpoint = fail_together(lambda: _chosen(args), args.world_size)
    check_same_start(checkpoint, args.world_size)
    if is_first and checkpoint is None:
        _tell_of_unused(Path(args.output_dir))
    is_over = fail_together(lambda: is_first and _is_over(trainer, args, checkpoint), args.world_size)
    return FINISHED if is_true_anywhere(is_over, args.world_size) else checkpoint


def _chosen(args) -> Path | None:
    """Return the checkpoint that the settings name."""
    output_dir, chosen = Path(args.output_dir), args.resume_from_checkpoint
    if chosen == LAST:
        checkpoint = last_checkpoint(output_dir)
        if checkpoint is None:
            raise ValueError(f"resume_from_checkpoint is true, and {output_dir} has no whole checkpoint to resume from")
        return checkpoint
    if chosen is None:
        return None if args.overwrite_output_dir else last_checkpoint(output_dir)
    if not Path(chosen).is_dir():
        raise ValueError(f"resume_from_checkpoint {chosen} is not a folder (looked for {Path(chosen).absolute()})")
    return Path(chosen)


def _tell_of_unused(output_dir: Path) -> None:
    """Print a notice if a run starts at step 1 in a folder with a checkpoint that it could have resumed from."""
    unused = last_checkpoint(output_dir)
    if unused is not None:
        notice(
            f"starting at step 1: {unused.name} of an earlier run in {output_dir} is discarded, because "
            "overwrite_output_dir is true; to continue that run, stop this one now and add "
            "--resume_from_checkpoint true (or set overwrite_output_dir to false)"
        )


def _is_over(trainer, args, checkpoint: Path | None) -> bool:
    """Return whether a run has finished before. Raises ValueError if its outputs are of a run with other settings."""
    output_dir, is_data_checked = Path(args.output_dir), not args.ignore_data_skip
    if checkpoint is not None:
        check_checkpoint_facts(trainer.facts, checkpoint, is_data_checked=is_data_checked, warn=notice)
        best = recorded_best(checkpoint, args.output_dir) if args.load_best_model_at_end else None
        if best is not None:
            check_checkpoint_facts(trainer.facts, best, is_data_checked=is_data_checked, warn=lambda text: None)
    finished = finished_step(output_dir)
    if args.overwrite_output_dir or args.resume_from_checkpoint not in (None, LAST) or finished is None:
        return False
    step, facts = finished
    what, keys = f"the result in {output_dir}", (*MUST_MATCH, *LEARNING, *ORDER)
    check_facts(facts, trainer.facts, what, is_data_checked=is_data_checked, keys=keys)
    if step < trainer.num_steps():
        return False
    notice(f"already finished at step {step}, the result in {output_dir} stays; overwrite_output_dir trains anew")
    return True


def finished_step(output_dir: str | Path) -> tuple[int, dict[str, Any]] | None:
    """Return the last step and the facts of a finished run whose result is complete, None where there is none."""
    path = Path(output_dir) / NOTE
    note = read_json(path) if path.is_file() else {}
    values, files = note.get(FINISHED), note.get("files")
    if not isinstance(values, dict) or not isinstance(values.get("step"), int) or not isinstance(files, list):
        return None
    model = [name for name in files if isinstance(name, str) and MODEL_FILES.fullmatch(name)]
    if not all((path.parent / name).is_file() for name in model):
        return None
    return values["step"], values


def check_checkpoint(folder: str | None, args) -> None:
    """Raise ValueError for a checkpoint that a run cannot resume from, as far as its JSON files show."""
    if folder is None:
        return
    check_division(folder, args)
    check_state(folder, is_needed=not args.ignore_load_lr_and_optim)
    if args.load_best_model_at_end and not args.ignore_load_lr_and_optim:
        _check_best(folder, args.output_dir)


def check_state(checkpoint: str | Path, *, is_needed: bool = True) -> None:
    """Raise CheckpointError for a trainer_state.json that is not a trainer's, or not of this checkpoint's step.

    is_needed: the file must be there, because without it a run would start at step 1 with the checkpoint's weights.
    """
    path = Path(checkpoint) / STATE
    if not path.is_file():
        if not is_needed:
            return
        raise CheckpointError(f"{path} is missing: a run cannot resume from the checkpoint; {WITHOUT_STATE}")
    values = read_json(path)
    check_keys(values, STATE_RULES, str(path), CheckpointError)
    check_values({"global_step": None, **values}, STATE_KINDS, str(path), CheckpointError)
    named = re.fullmatch(rf"{PREFIX}(\d{{1,18}})", Path(checkpoint).absolute().name)
    if named and int(named[1]) != values["global_step"]:
        raise CheckpointError(f"{path} is of step {values['global_step']}, its folder is named after another one")


def num_done_steps(checkpoint: str | Path | None, args) -> int:
    """Return the number of steps before a resumed run, 0 for a run that counts from the start."""
    if not checkpoint or args.ignore_load_lr_and_optim:
        return 0
    path = Path(checkpoint) / STATE
    return read_json(path)["global_step"] if path.is_file() else 0


def recorded_epoch(folder: str | Path) -> float | None:
    """Return the epoch that a checkpoint or a result has reached, None if it does not tell. Raises CheckpointError."""
    check_state(folder, is_needed=False)
    path = Path(folder) / STATE
    return read_json(path).get("epoch") if path.is_file() else None


def best_checkpoint(best: str, output_dir: str) -> Path:
    """Return the folder of the best checkpoint, even if the run's folder was moved. Raises CheckpointError."""
    folder = next((path for path in (Path(best), Path(output_dir) / Path(best).name) if path.is_dir()), None)
    if folder is None:
        raise CheckpointError(
            f"{best}, the best checkpoint of this run so far, is gone: restore it, or leave out load_best_model_at_end"
        )
    return folder


def recorded_best(checkpoint: str | Path, output_dir: str) -> Path | None:
    """Return the best checkpoint that a checkpoint names, None if it names none. Raises CheckpointError."""
    path = Path(checkpoint) / STATE
    best = read_json(path).get("best_model_checkpoint") if path.is_file() else None
    return best_checkpoint(best, output_dir) if isinstance(best, str) else None


def _check_best(folder: str, output_dir: str) -> None:
    """Raise CheckpointError now for a best checkpoint that could not be loaded at the end of training."""
    best = recorded_best(folder, output_dir)
    try:
        if best is not None:
            check_state(best)
    except CheckpointError as error:
        raise CheckpointError(f"{best}, which {folder} names as the best checkpoint, is not one: {error}") from None


def load_weights(model, folder: Path) -> None:
    """Load a checkpoint's weights into a model, or its adapter into a LoRAModel. Raises CheckpointError."""
    if isinstance(model, LoRAModel):
        load_adapter(model, folder)
        return
    fill(model, open_source(folder).tensors, folder)


@contextmanager
def hidden_from_paddlenlp(args) -> Iterator[bool]:
    """Yield load_best_model_at_end, and make it false meanwhile, because paddlenlp would unpickle the weights."""
    is_wanted = bool(args.load_best_model_at_end)
    args.load_best_model_at_end = False
    try:
        yield is_wanted
    finally:
        args.load_best_model_at_end = is_wanted
