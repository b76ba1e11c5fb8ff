"""What several processes do at the same time, and give up together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import paddle

from ..checkpoints.files import CheckpointError

Result = TypeVar("Result")


def together(action: Callable[[], Result], num_processes: int) -> Result:
    """Return what an action returns; all processes must call it. The action must not communicate.

    Where it fails in one process it fails in all of them, with the same text: nobody waits for a process that ended.
    Raises what the action raised, in other processes CheckpointError.
    """
    if num_processes <= 1:
        return action()
    result, failure = None, None
    try:
        result = action()
    except (ValueError, OSError) as error:
        failure = error
    problems: list[str | None] = []
    paddle.distributed.all_gather_object(problems, None if failure is None else str(failure))
    if failure is not None:
        raise failure
    problem = next((text for text in problems if text is not None), None)
    if problem is not None:
        raise CheckpointError(problem)
    return result
