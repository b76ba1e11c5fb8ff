"""Collective operations of a run's processes. All processes must make each call, in the same order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import paddle

from ..tensor_files.stored import CheckpointError

Result = TypeVar("Result")


def wait_for_all(num_processes: int) -> None:
    """Return when every process has made this call."""
    if num_processes > 1:
        paddle.distributed.barrier()


def sum_over_processes(values: np.ndarray, num_processes: int) -> np.ndarray:
    """Return the sum of an array over all processes, in float32; the array itself for one process."""
    if num_processes <= 1:
        return values
    tensor = paddle.to_tensor(values, dtype="float32")
    paddle.distributed.all_reduce(tensor)
    return tensor.numpy()


def is_true_anywhere(is_true: bool, num_processes: int) -> bool:
    """Return whether something is true in at least one process."""
    return bool(sum_over_processes(np.array([float(is_true)]), num_processes)[0])


def gather(value: Any, num_processes: int) -> list:
    """Return the values of all processes in the order of their ranks."""
    if num_processes <= 1:
        return [value]
    values: list = []
    paddle.distributed.all_gather_object(values, value)
    return values


def fail_together(action: Callable[[], Result], num_processes: int) -> Result:
    """Return the result of an action that does not communicate, such as reading a file.

    If it fails in one process, it fails in all of them with the same text, so that no process waits for one that has
    ended. Raises the action's own ValueError or OSError, and CheckpointError in the other processes.
    """
    if num_processes <= 1:
        return action()
    result, failure = None, None
    try:
        result = action()
    except (ValueError, OSError) as error:
        failure = error
    problems = gather(None if failure is None else str(failure), num_processes)
    if failure is not None:
        raise failure
    problem = next((text for text in problems if text is not None), None)
    if problem is not None:
        raise CheckpointError(problem)
    return result
