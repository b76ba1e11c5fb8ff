"""Checkpoint folders of a run: which is whole, which is the last, and how far it had come."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from paddlenlp.trainer.trainer import TRAINER_STATE_NAME
from paddlenlp.trainer.trainer_callback import TrainerState

from ..checkpoints.files import CheckpointError, read_json
from ..foreign_json import OBJECT, TEXT, KeyRules, Kind, check_keys, check_values, list_of, number, whole_number
from .run_folder import PREFIX

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
