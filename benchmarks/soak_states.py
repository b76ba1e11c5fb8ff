"""Compare the folders of an interrupted run with reference states: all old, all new, or a mixture.

The state of a folder is the digests of its files. JSON files are compared by their values, without measured times and
memory. The reference is an uninterrupted run of the same command in the same folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from paddlemix.checkpoints.source import open_source
from paddlemix.tensor_files.copying import widened
from paddlemix.tensor_files.pdparams import open_pdparams
from paddlemix.tensor_files.safetensors import open_safetensors

MARK = "complete"  # marks a complete checkpoint
MEASURED = ("runtime", "per_second", "peak_memory", "begun")  # parts of the keys of measured values
# Files that a run writes while it runs, so they are not part of the result until it ends.
RUNNING = frozenset(("bad_samples.jsonl", "eval_answers.jsonl", "eval_tasks/custom.jsonl", "bad_step.json"))
METRICS = frozenset(("train_results.json", "all_results.json", "eval_results.json", "trainer_state.json", "loss.png"))
LOG = re.compile(r"run(\.rank\d+)?\.log")  # what libraries printed: each run appends to it
State = Mapping[str, str]  # path from the folder -> digest


def state_of(folder: Path) -> dict[str, str]:
    """Return the state of a folder, including folders and links; empty if it does not exist."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            if LOG.fullmatch(name):
                continue
            path = Path(parent, name)
            found[str(path.relative_to(folder))] = digest(path)
    return found


def digest(path: Path) -> str:
    """Return a digest of a file, a link or a folder."""
    if path.is_symlink():
        return f"link to {os.readlink(path)}"
    if path.is_dir():
        return "folder"
    data = path.read_bytes()
    if path.suffix == ".json":
        with contextlib.suppress(ValueError):  # a truncated file is compared by its bytes
            data = json.dumps(_without_measured(json.loads(data)), sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def _without_measured(value):
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if not any(part in key for part in MEASURED)}
        return {key: _without_measured(item) for key, item in kept.items()}
    return [_without_measured(item) for item in value] if isinstance(value, list) else value


def below(state: State, folder: str) -> dict[str, str]:
    """Return the state below a folder, with paths relative to it."""
    start = f"{folder}/"
    return {path.removeprefix(start): value for path, value in state.items() if path.startswith(start)}


def complete_checkpoints(state: State) -> set[str]:
    """Return the paths of the checkpoints that are marked complete."""
    folders = [os.path.dirname(path) for path in state if os.path.basename(path) == MARK]
    return {folder for folder in folders if os.path.basename(folder).startswith("checkpoint-")}


def mixtures(state: State, work: Path, output: str, references: Mapping[str, State]) -> list[str]:
    """Return a sentence for each folder that is marked complete, or loads, but equals none of the reference states.

    state: of the folder `work`. output: the command's output in it. references: valid states by name, such as the one
    before the command and the one after it.
    """
    found = []
    for checkpoint in sorted(complete_checkpoints(state)):
        found += _mixture(below(state, checkpoint), {name: below(one, checkpoint) for name, one in references.items()})
    path = work / output
    if path.is_file():
        files = {name: {output: one.get(output)} for name, one in references.items()}
        return found + _mixture({output: state[output]}, files)
    return found + _mixed_result(state, path, output, references) if loads(path) else found


def _mixed_result(state: State, folder: Path, output: str, references: Mapping[str, State]) -> list[str]:
    """Check a folder that loads as a model: its files, and the metrics beside them."""
    own = _files(below(state, output))
    results = {name: _files(below(one, output)) for name, one in references.items()}
    model = {path: value for path, value in own.items() if path not in METRICS}
    models = {
        name: {path: value for path, value in one.items() if path not in METRICS} for name, one in results.items()
    }
    found = _mixture(model, models)
    matching = {name for name, one in models.items() if one == model}
    for path in sorted(own.keys() & METRICS):
        owners = {name for name, one in results.items() if one.get(path) == own[path]}
        if matching and owners and not matching & owners:
            found.append(
                f"{folder.name}/{path} is {' and '.join(owners)}, the model beside it {' and '.join(matching)}"
            )
    return found


def _files(state: State) -> dict[str, str]:
    """Return the files of a result: without checkpoints, hidden files and files that grow during a run."""
    return {
        path: value
        for path, value in state.items()
        if not path.startswith(("checkpoint-", ".", "eval_tasks/.")) and path not in RUNNING and value != "folder"
    }


def _mixture(own: State, references: Mapping[str, State]) -> list[str]:
    """Return a sentence on a folder that equals none of the references."""
    if any(own == one for one in references.values()):
        return []
    parts = []
    for path in sorted(own.keys() | set().union(*references.values())):
        matching = [name for name, one in references.items() if one.get(path) == own.get(path)]
        if len(matching) < len(references):
            what = " and ".join(matching) or ("unlike any" if path in own else "missing")
            parts.append(f"{path} {what}")
    return [f"mixture: {', '.join(parts)}"]


def loads(folder: Path) -> bool:
    """Return whether a folder opens as a checkpoint and every tensor can be read."""
    if not folder.is_dir():
        return False
    try:
        for tensor in open_source(folder).tensors.values():
            tensor.values.sum()
    except (ValueError, OSError):
        return False
    return True


def differing(state: State, expected: State, kinds=("missing", "left over", "differs")) -> list[str]:
    """Return the differences between a state and the expected one, by path."""
    missing, left, differs = kinds
    found = [f"{path} is {missing}" for path in sorted(expected.keys() - state.keys())]
    found += [f"{path} is {left}" for path in sorted(state.keys() - expected.keys())]
    return found + [
        f"{path} {differs}" for path in sorted(expected.keys() & state.keys()) if state[path] != expected[path]
    ]


def weights_of(path: Path) -> list[np.ndarray]:
    """Return the floating-point tensors of a weight file; empty if the file is incomplete."""
    try:
        tensors = open_safetensors(path) if path.suffix == ".safetensors" else open_pdparams(path)
        return [widened(tensor.values, tensor.dtype) for tensor in tensors.values() if "float" in tensor.dtype]
    except (ValueError, OSError):
        return []
