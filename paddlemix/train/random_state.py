"""The random numbers of a run in a checkpoint: where Python, NumPy and Paddle were.

`rng_state.pth` of one process is a dict, `rng_state_N.pth` of N processes a list of them in the order of the ranks, in
the format of paddlenlp's Trainer. Reading takes plain numbers and runs nothing that is in the file.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.distributed.fleet.meta_parallel import get_rng_state_tracker

from ..foreign_json import FLAG, Kind, check_values, number, one_of, whole_number
from ..output import replacing
from ..tensor_files.pdparams import KNOWN, NAME_TABLE, read_saved, refusing, stored_array, write_saved
from ..tensor_files.pickle_reader import Buildable
from ..tensor_files.stored import CheckpointError, from_array

TRACKER = "hybrid_parallel_rng_state_tracker"
NUM_PYTHON, NUM_NUMPY = 625, 624  # words of a Mersenne twister; Python's has its place as the last one
WORD, LONG = whole_number(0, 2**32 - 1), whole_number(0, 2**64 - 1)
BYTE = whole_number(0, 255)
MAX_STEPS = 500_000  # of a process: a generator takes 6,400, and there may be two for each of 16 cards


class _Generator(Buildable):
    """Stands in for paddle's GeneratorState: (device, seed, offset, text of the engine as a list of bytes)."""

    fields: Any = None

    def set_state(self, state: Any) -> None:
        self.fields = state


READ = {**KNOWN, ("paddle.base.libpaddle", "GeneratorState"): _Generator}


def random_state(is_tracked: bool) -> dict[str, Any]:
    """Return where the random numbers of this process are. is_tracked: paddle keeps states by name, too."""
    state = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cuda": paddle.get_rng_state(),
        "cpu": paddle.framework.core.default_cpu_generator().get_state(),
    }
    return {**state, TRACKER: get_rng_state_tracker().get_states_tracker()} if is_tracked else state


def set_random_state(state: dict[str, Any]) -> None:
    """Go on from what `random_state` or `read_random_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    paddle.framework.core.default_cpu_generator().set_state(state["cpu"])
    paddle.set_rng_state(state["cuda"])
    if TRACKER in state:
        get_rng_state_tracker().set_states_tracker(state[TRACKER])


def random_state_name(num_processes: int) -> str:
    """Return the name of the file."""
    return "rng_state.pth" if num_processes <= 1 else f"rng_state_{num_processes}.pth"


def write_random_state(path: Path, state: Any) -> None:
    """Write the state of one process, or the list of all."""
    with replacing(path) as file:
        pickle.dump(state, file, protocol=4)


def open_random_state(path: Path, num_processes: int) -> Any:
    """Return what the file holds, unchecked. Raises CheckpointError for more than arrays, numbers and generators."""
    return read_saved(path, READ, max_steps=MAX_STEPS * num_processes)


def read_random_state(path: Path, process: int, num_processes: int, is_tracked: bool) -> dict[str, Any]:
    """Return the state of a process. Raises CheckpointError for a file of anything else."""
    with refusing(path):
        values = open_random_state(path, num_processes)
        if num_processes > 1:
            if not isinstance(values, list) or len(values) != num_processes:
                raise CheckpointError(f"it is {_what(values)}, expected the states of {num_processes} processes")
            values = values[process]
        return _checked(path, values, is_tracked)


def _checked(path: Path, values: Any, is_tracked: bool) -> dict[str, Any]:
    needed = {"python", "numpy", "cuda", "cpu"}
    if not isinstance(values, dict) or not needed <= set(values):
        absent = f"a dict without {', '.join(sorted(needed - set(values)))}" if isinstance(values, dict) else ""
        raise CheckpointError(f"it is {absent or _what(values)}, expected a dict of random states")
    state = {
        "python": _python(values["python"]),
        "numpy": _numpy(path, values["numpy"]),
        "cuda": _generators("cuda", values["cuda"], paddle.get_rng_state()),
        "cpu": _generators("cpu", [values["cpu"]], [paddle.framework.core.default_cpu_generator().get_state()])[0],
    }
    return {**state, TRACKER: _tracked(values[TRACKER])} if is_tracked and TRACKER in values else state


def _tracked(values: Any) -> dict[str, list]:
    """Return the named states that this run has; another division of the model has others."""
    present = get_rng_state_tracker().get_states_tracker()
    if not isinstance(values, dict):
        raise CheckpointError(f"{TRACKER} is {_what(values)}, expected a dict")
    return {name: _generators(name, values[name], states) for name, states in present.items() if name in values}


def _python(value: Any) -> tuple:
    has_form = isinstance(value, tuple) and len(value) == 3 and isinstance(value[1], tuple)
    if not has_form or len(value[1]) != NUM_PYTHON:
        raise CheckpointError(f"'python' is {_what(value)}, expected the state of Python's generator")
    version, words, gauss = value
    checks = {"version": one_of([3]), "place": whole_number(0, NUM_PYTHON - 1), "gauss": _GAUSS.or_null()}
    _check("python", {"version": version, "place": words[-1], "gauss": gauss}, checks)
    _check_all("python", words[:-1], WORD)
    return version, words, gauss


def _numpy(path: Path, value: Any) -> tuple:
    if not isinstance(value, tuple) or len(value) != 5:
        raise CheckpointError(f"'numpy' is {_what(value)}, expected the state of NumPy's generator")
    kind, words, place, has_gauss, gauss = value
    checks = {"kind": one_of(["MT19937"]), "place": whole_number(0, NUM_NUMPY)}
    checks |= {"has_gauss": whole_number(0, 1), "gauss": _GAUSS}
    _check("numpy", {"kind": kind, "place": place, "has_gauss": has_gauss, "gauss": gauss}, checks)
    stored = stored_array(path, "numpy", words)
    if stored.shape != (NUM_NUMPY,) or stored.values.dtype != np.uint32:
        raise CheckpointError(f"'numpy' has words of dtype {stored.dtype} and shape {list(stored.shape)}")
    return kind, np.array(stored.values), place, has_gauss, gauss


_GAUSS = number(-1e3, 1e3)  # a normal random number that is left over


def _generators(name: str, values: Any, present: list) -> list:
    """Return paddle's states, one for each of `present`, which are those of this machine now."""
    if not isinstance(values, list) or len(values) != len(present):
        raise CheckpointError(
            f"{name!r} is {_what(values)}, expected a list of {len(present)}: this machine's generators; "
            "without the file the run goes on with other random numbers"
        )
    return [_generator(name, value, one) for value, one in zip(values, present, strict=True)]


def _generator(name: str, value: Any, present: Any) -> Any:
    fields, now = value.fields if isinstance(value, _Generator) else None, present.__getstate__()
    if not isinstance(fields, tuple) or len(fields) != len(now) or not isinstance(fields[-1], list):
        raise CheckpointError(f"{name!r} holds {_what(value)}, expected the state of a generator of paddle")
    device, seed, offset, text = fields
    kinds = {"device": one_of([now[0]]), "seed": LONG, "offset": LONG}
    _check(name, {"device": device, "seed": seed, "offset": offset}, kinds)
    if len(text) > 2 * len(now[-1]):
        raise CheckpointError(f"{name!r} has an engine of {len(text)} bytes, expected about {len(now[-1])}")
    _check_all(name, text, BYTE)
    words, num_words = bytes(text).decode("latin1").split(" "), len(bytes(now[-1]).split(b" "))
    is_engine = len(words) == num_words and all(word.isascii() and word.isdigit() for word in words)
    if not is_engine or max(map(int, words)) >= 2**64 or int(words[-1]) >= num_words:
        raise CheckpointError(f"{name!r} holds an engine that is none of {num_words - 1} numbers and a place")
    state = type(present).__new__(type(present))
    state.__setstate__((device, seed, offset, text))
    return state


def _check(name: str, values: dict[str, Any], kinds: dict[str, Kind]) -> None:
    for key, value in values.items():
        if isinstance(value, (list, tuple, dict)):  # not to be printed: a file can make it take forever
            raise CheckpointError(f"{name!r}: {key} is {_what(value)}, expected {kinds[key].expected}")
    check_values(values, kinds, repr(name), CheckpointError)


def _check_all(name: str, values: Iterable[Any], kind: Kind) -> None:
    if not all(map(kind.is_good, values)):
        raise CheckpointError(f"{name!r} holds something else than {kind.expected}")


def _what(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, (list, tuple, dict)) else ""
    kind = "generator" if isinstance(value, _Generator) else type(value).__name__
    return f"a {kind}{size}"


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
    items = {key: from_array(value) if isinstance(value, np.ndarray) else value for key, value in values.items()}
    with replacing(path) as file:
        write_saved(file, items)
