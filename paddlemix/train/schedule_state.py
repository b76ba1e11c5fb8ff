"""Two small files of a checkpoint: where the learning rate's schedule and the loss scale of float16 are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.files import CheckpointError, held
from ..checkpoints.pdparams import NAME_TABLE, read_saved, refusing, stored_array, write_saved
from ..foreign_json import FLAG, Kind, check_values, number, whole_number
from ..output import replacing

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


def read_schedule(path: Path, present: Mapping[str, Any], num_steps: int) -> dict[str, Any]:
    """Read the state of a schedule. Raises CheckpointError for a file of anything else. See `check_schedule`."""
    with refusing(path):
        values = _read_dict(path)
        check_schedule(values, present, num_steps)
        return values


def check_schedule(values: Any, present: Mapping[str, Any], num_steps: int) -> None:
    """Raise CheckpointError for what is no state of a schedule after num_steps. present: the state of the run's own."""
    _check_plain(values, sorted(present))
    kinds = {"last_epoch": whole_number(0, num_steps), "last_lr": number(0.0, 1e300)}
    check_values(values, kinds, "its schedule", CheckpointError)


def read_scaler(path: Path) -> dict[str, Any]:
    """Read the state of a loss scale, for `load_state_dict`. Raises CheckpointError for a file of anything else."""
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
    """Check for a dict with these keys and plain values: others may take forever to be compared or printed."""
    if not isinstance(values, dict) or sorted(map(str, values)) != expected:
        found = ", ".join(map(str, values)) if isinstance(values, dict) else f"a {type(values).__name__}"
        raise CheckpointError(f"it holds {found[:200] or 'nothing'}, expected {', '.join(expected)}")
    for key, value in values.items():
        if not isinstance(value, PLAIN):
            raise CheckpointError(f"{key} is a {type(value).__name__}, expected a number")


def write_plain(path: Path, values: Mapping[str, Any]) -> None:
    """Write the state of a schedule or a loss scale as paddle.load reads it."""
    items = {key: held(value) if isinstance(value, np.ndarray) else value for key, value in values.items()}
    with replacing(path) as file:
        write_saved(file, items)
