"""What must hold of folders that a run was killed over: all old or all new, and in the end as if nothing had happened.

A folder is known by the digests of its files. Of JSON files count the values, without those that tell of time and
memory. The reference is an uninterrupted run of the same command, in the same place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from paddlemix.checkpoints.source import open_source
from paddlemix.tensor_files.copying import widened
from paddlemix.tensor_files.pdparams import open_pdparams
from paddlemix.tensor_files.safetensors import open_safetensors

MARK = "complete"  # of a whole checkpoint
MEASURED = ("runtime", "per_second", "peak_memory", "begun")  # parts of the keys of what no two runs share
# What a run appends to from its start on, which so is no part of the result before the run has ended.
RUNNING = frozenset(("bad_samples.jsonl", "eval_answers.jsonl", "bad_step.json"))
FIGURES = frozenset(("train_results.json", "all_results.json", "eval_results.json", "trainer_state.json", "loss.png"))
State = Mapping[str, str]  # path from the folder -> digest


def state_of(folder: Path) -> dict[str, str]:
    """Return what is in a folder, folders and links included; empty where there is none."""
    found = {}
    for home, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(home, name)
            found[str(path.relative_to(folder))] = digest(path)
    return found


def digest(path: Path) -> str:
    """Return what stands for the content of a file, a link or a folder."""
    if path.is_symlink():
        return f"link to {os.readlink(path)}"
    if path.is_dir():
        return "folder"
    data = path.read_bytes()
    if path.suffix == ".json":
        with contextlib.suppress(ValueError):  # a file that is cut off counts as the bytes that it has
            data = json.dumps(_without_measured(json.loads(data)), sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def _without_measured(value):
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if not any(part in key for part in MEASURED)}
        return {key: _without_measured(item) for key, item in kept.items()}
    return [_without_measured(item) for item in value] if isinstance(value, list) else value


def below(state: State, folder: str) -> dict[str, str]:
    """Return what is below a folder, by the paths from there."""
    start = f"{folder}/"
    return {path.removeprefix(start): value for path, value in state.items() if path.startswith(start)}


def whole_checkpoints(state: State) -> set[str]:
    """Return the paths of the folders that are marked as whole."""
    folders = [os.path.dirname(path) for path in state if os.path.basename(path) == MARK]
    return {folder for folder in folders if os.path.basename(folder).startswith("checkpoint-")}


def broken(state: State, work: Path, output: str, sides: Mapping[str, State]) -> list[str]:
    """Return what is marked whole, or loads, and is not: neither what was there before nor what the command makes.

    state: of the folder `work`. output: what the command writes in it. sides: states that are whole, by name.
    """
    found = []
    for checkpoint in sorted(whole_checkpoints(state)):
        found += _unlike(below(state, checkpoint), {name: below(side, checkpoint) for name, side in sides.items()})
    place = work / output
    if place.is_file():
        files = {name: {output: side.get(output)} for name, side in sides.items()}
        return found + _unlike({output: state[output]}, files)
    return found + _broken_result(state, place, output, sides) if loads(place) else found


def _broken_result(state: State, place: Path, output: str, sides: Mapping[str, State]) -> list[str]:
    """Look at a folder that loads as a model: its files, and the figures beside it."""
    own = _files(below(state, output))
    wholes = {name: _files(below(side, output)) for name, side in sides.items()}
    model = {path: value for path, value in own.items() if path not in FIGURES}
    models = {
        name: {path: value for path, value in whole.items() if path not in FIGURES} for name, whole in wholes.items()
    }
    found = _unlike(model, models)
    fitting = {name for name, whole in models.items() if whole == model}
    for path in sorted(own.keys() & FIGURES):
        owners = {name for name, whole in wholes.items() if whole.get(path) == own[path]}
        if fitting and owners and not fitting & owners:
            found.append(f"{place.name}/{path} is {' and '.join(owners)}, the model beside it {' and '.join(fitting)}")
    return found


def _files(state: State) -> dict[str, str]:
    """Return what makes up a result: no checkpoints, nothing hidden, nothing that grows while a run goes on."""
    return {
        path: value
        for path, value in state.items()
        if not path.startswith(("checkpoint-", ".")) and path not in RUNNING and value != "folder"
    }


def _unlike(own: State, wholes: Mapping[str, State]) -> list[str]:
    """Return a sentence on a folder that equals none of those that are whole."""
    if any(own == whole for whole in wholes.values()):
        return []
    parts = []
    for path in sorted(own.keys() | set().union(*wholes.values())):
        fitting = [name for name, whole in wholes.items() if whole.get(path) == own.get(path)]
        if len(fitting) < len(wholes):
            what = " and ".join(fitting) or ("unlike any" if path in own else "missing")
            parts.append(f"{path} {what}")
    return [f"mixture: {', '.join(parts)}"]


def loads(folder: Path) -> bool:
    """Tell whether a folder opens as a checkpoint, every tensor read."""
    if not folder.is_dir():
        return False
    try:
        for tensor in open_source(folder).tensors.values():
            tensor.values.sum()
    except (ValueError, OSError):
        return False
    return True


def differing(state: State, expected: State, kinds=("missing", "left over", "differs")) -> list[str]:
    """Return in which paths a state is not what is expected."""
    missing, left, differs = kinds
    found = [f"{path} is {missing}" for path in sorted(expected.keys() - state.keys())]
    found += [f"{path} is {left}" for path in sorted(state.keys() - expected.keys())]
    return found + [
        f"{path} {differs}" for path in sorted(expected.keys() & state.keys()) if state[path] != expected[path]
    ]


def weights_of(path: Path) -> list[np.ndarray]:
    """Return the floats of a file of weights, none where it is no whole one."""
    try:
        tensors = open_safetensors(path) if path.suffix == ".safetensors" else open_pdparams(path)
        return [widened(tensor.values, tensor.dtype) for tensor in tensors.values() if "float" in tensor.dtype]
    except (ValueError, OSError):
        return []
