"""The states of the random generators in a checkpoint: Python's, NumPy's and Paddle's.

`rng_state.pth` of one process is a dict, `rng_state_N.pth` of N processes a list of dicts in the order of the ranks, in
the formats of paddlenlp's Trainer. Reading a file accepts numbers and runs no code in it.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.distributed.fleet.meta_parallel import get_rng_state_tracker

from ..foreign_json import Kind, check_values, number, one_of, whole_number
from ..output import replacing
from ..tensor_files.pdparams import KNOWN, read_saved, stored_array
from ..tensor_files.pickle_reader import Buildable
from ..tensor_files.stored import CheckpointError, refusing

TRACKER = "hybrid_parallel_rng_state_tracker"
NUM_PYTHON, NUM_NUMPY = 625, 624  # words of a Mersenne twister; Python's last one is its position
WORD, LONG = whole_number(0, 2**32 - 1), whole_number(0, 2**64 - 1)
BYTE = whole_number(0, 255)
GAUSS = number(-1e3, 1e3)  # a normal random number that was drawn ahead
MAX_STEPS = 500_000  # a process: a generator takes 6,400, and there may be two for each of 16 cards


class _Generator(Buildable):
    """Stands in for paddle's GeneratorState: (device, seed, offset, text of the engine as a list of bytes)."""

    fields: Any = None

    def set_state(self, state: Any) -> None:
        self.fields = state


READ = {**KNOWN, ("paddle.base.libpaddle", "GeneratorState"): _Generator}


def random_state(is_tracked: bool) -> dict[str, Any]:
    """Return the states of this process's generators. is_tracked: paddle keeps named states too."""
    state = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cuda": paddle.get_rng_state(),
        "cpu": paddle.framework.core.default_cpu_generator().get_state(),
    }
    return {**state, TRACKER: get_rng_state_tracker().get_states_tracker()} if is_tracked else state


def set_random_state(state: dict[str, Any]) -> None:
    """Set the generators to a result of `random_state` or `read_random_state`."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    paddle.framework.core.default_cpu_generator().set_state(state["cpu"])
    paddle.set_rng_state(state["cuda"])
    if TRACKER in state:
        get_rng_state_tracker().set_states_tracker(state[TRACKER])


def random_state_name(num_processes: int) -> str:
    """Return the name of a run's file."""
    return "rng_state.pth" if num_processes <= 1 else f"rng_state_{num_processes}.pth"


def write_random_state(path: Path, state: Any) -> None:
    """Write the state of one process, or the list of all processes' states."""
    with replacing(path) as file:
        pickle.dump(state, file, protocol=4)


def open_random_state(path: Path, num_processes: int) -> Any:
    """Return a file's contents, unchecked. Raises CheckpointError for more than arrays, numbers and generators."""
    return read_saved(path, READ, max_steps=MAX_STEPS * num_processes)


def read_random_state(path: Path, process: int, num_processes: int, is_tracked: bool) -> dict[str, Any]:
    """Return the state of a process. Raises CheckpointError for any other file."""
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
        missing = f"a dict without {', '.join(sorted(needed - set(values)))}" if isinstance(values, dict) else ""
        raise CheckpointError(f"it is {missing or _what(values)}, expected a dict of random states")
    state = {
        "python": _python(values["python"]),
        "numpy": _numpy(path, values["numpy"]),
        "cuda": _generators("cuda", values["cuda"], paddle.get_rng_state()),
        "cpu": _generators("cpu", [values["cpu"]], [paddle.framework.core.default_cpu_generator().get_state()])[0],
    }
    return {**state, TRACKER: _tracked(values[TRACKER])} if is_tracked and TRACKER in values else state


def _tracked(values: Any) -> dict[str, list]:
    """Return the named states that this run needs; they depend on how the model is divided."""
    present = get_rng_state_tracker().get_states_tracker()
    if not isinstance(values, dict):
        raise CheckpointError(f"{TRACKER} is {_what(values)}, expected a dict")
    return {name: _generators(name, values[name], states) for name, states in present.items() if name in values}


def _python(value: Any) -> tuple:
    has_form = isinstance(value, tuple) and len(value) == 3 and isinstance(value[1], tuple)
    if not has_form or len(value[1]) != NUM_PYTHON:
        raise CheckpointError(f"'python' is {_what(value)}, expected the state of Python's generator")
    version, words, gauss = value
    checks = {"version": one_of([3]), "position": whole_number(0, NUM_PYTHON - 1), "gauss": GAUSS.or_null()}
    _check("python", {"version": version, "position": words[-1], "gauss": gauss}, checks)
    _check_all("python", words[:-1], WORD)
    return version, words, gauss


def _numpy(path: Path, value: Any) -> tuple:
    if not isinstance(value, tuple) or len(value) != 5:
        raise CheckpointError(f"'numpy' is {_what(value)}, expected the state of NumPy's generator")
    kind, words, position, has_gauss, gauss = value
    checks = {"kind": one_of(["MT19937"]), "position": whole_number(0, NUM_NUMPY)}
    checks |= {"has_gauss": whole_number(0, 1), "gauss": GAUSS}
    _check("numpy", {"kind": kind, "position": position, "has_gauss": has_gauss, "gauss": gauss}, checks)
    stored = stored_array(path, "numpy", words)
    if stored.shape != (NUM_NUMPY,) or stored.values.dtype != np.uint32:
        raise CheckpointError(f"'numpy' has words of dtype {stored.dtype} and shape {list(stored.shape)}")
    return kind, np.array(stored.values), position, has_gauss, gauss


def _generators(name: str, values: Any, present: list) -> list:
    """Return the states of paddle's generators. present: those of this machine now, as many."""
    if not isinstance(values, list) or len(values) != len(present):
        raise CheckpointError(
            f"{name!r} is {_what(values)}, expected a list of {len(present)}, the number of this machine's generators; "
            "without the file the run continues with other random numbers"
        )
    return [_generator(name, value, one) for value, one in zip(values, present, strict=True)]


def _generator(name: str, value: Any, present: Any) -> Any:
    fields, now = value.fields if isinstance(value, _Generator) else None, present.__getstate__()
    if not isinstance(fields, tuple) or len(fields) != len(now) or not isinstance(fields[-1], list):
        raise CheckpointError(f"{name!r} holds {_what(value)}, expected the state of one of paddle's generators")
    device, seed, offset, text = fields
    kinds = {"device": one_of([now[0]]), "seed": LONG, "offset": LONG}
    _check(name, {"device": device, "seed": seed, "offset": offset}, kinds)
    if len(text) > 2 * len(now[-1]):
        raise CheckpointError(f"{name!r} has an engine of {len(text)} bytes, expected about {len(now[-1])}")
    _check_all(name, text, BYTE)
    words, num_words = bytes(text).decode("latin1").split(" "), len(bytes(now[-1]).split(b" "))
    is_engine = len(words) == num_words and all(word.isascii() and word.isdigit() for word in words)
    if not is_engine or max(map(int, words)) >= 2**64 or int(words[-1]) >= num_words:
        raise CheckpointError(f"{name!r} holds an engine that is not {num_words - 1} numbers and a position")
    state = type(present).__new__(type(present))
    state.__setstate__((device, seed, offset, text))
    return state


def _check(name: str, values: dict[str, Any], kinds: dict[str, Kind]) -> None:
    for key, value in values.items():
        if isinstance(value, (list, tuple, dict)):  # printing one that a file has prepared could take forever
            raise CheckpointError(f"{name!r}: {key} is {_what(value)}, expected {kinds[key].expected}")
    check_values(values, kinds, repr(name), CheckpointError)


def _check_all(name: str, values: Iterable[Any], kind: Kind) -> None:
    if not all(map(kind.is_good, values)):
        raise CheckpointError(f"{name!r} holds values other than {kind.expected}")


def _what(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, (list, tuple, dict)) else ""
    kind = "generator" if isinstance(value, _Generator) else type(value).__name__
    return f"a {kind}{size}"
