"""Batches with the weights that make the loss of an optimizer step a mean over all of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import paddle
from paddle.io import DataLoader

from ..data.loss_weights import loss_weights
from ..data.sample import Batch
from ..data.workers import map_in_processes, map_in_thread

WEIGHTS = "loss_weights"


class RowLoader(DataLoader):
    """Reads batches as Paddle's loader does, ahead, in a thread or in processes, but can be interrupted meanwhile.

    It is a DataLoader because paddlenlp's Trainer asks for one.
    """

    def __iter__(self) -> Iterator[dict[str, Any]]:
        read = partial(_read_batch, self.dataset, self.collate_fn)
        if self.num_workers:
            batches = map_in_processes(read, self.batch_sampler, num_processes=self.num_workers, method="fork")
        else:
            batches = map_in_thread(read, self.batch_sampler)
        with closing(batches):
            for inputs in batches:
                # paddlenlp counts the rows of tensors; what is computed with goes to the device later
                yield {
                    key: paddle.to_tensor(value, place=paddle.CPUPlace()) if isinstance(value, np.ndarray) else value
                    for key, value in inputs.items()
                }


def _read_batch(dataset, collate: Callable[[list], dict[str, Any]], numbers: Sequence[int | None]) -> dict[str, Any]:
    return collate([dataset[number] for number in numbers])


class StepLoader(RowLoader):
    """Reads the num_accumulated batches of a step before it hands out the first, to count what they train together.

    With every batch its own mean, an answer of one word would weigh as much as one of a thousand whenever they come
    in other batches, or on other processes.
    reduction: as in `loss_weights`. wants_stop: whether this process was asked to stop; is_stop_wanted: whether any
    was, when the latest step was read, which all processes know alike.
    """

    def __init__(
        self,
        dataset,
        *,
        batch_sampler,
        collate_fn,
        num_workers: int,
        num_accumulated: int,
        reduction: str,
        num_processes: int = 1,
        wants_stop: Callable[[], bool] = lambda: False,
    ):
        super().__init__(dataset, batch_sampler=batch_sampler, collate_fn=collate_fn, num_workers=num_workers)
        self.num_accumulated = num_accumulated
        self.reduction = reduction
        self.num_processes = num_processes
        self.wants_stop = wants_stop
        self.is_stop_wanted = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        group: list[dict[str, Any]] = []
        for inputs in super().__iter__():
            group.append(inputs)
            if len(group) == self.num_accumulated:
                yield from self._weighed(group)
                group = []
        yield from self._weighed(group)

    def _weighed(self, group: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the batches with weights: the Trainer takes the mean over batches, and over processes."""
        batches = [inputs["batch"] for inputs in group]
        if not any(isinstance(batch, Batch) for batch in batches):
            return group  # skipped ones of a resumed run, or failures that are raised where they are used
        weights = [loss_weights(batch, self.reduction) if isinstance(batch, Batch) else None for batch in batches]
        own = sum(float(weight.sum()) for weight in weights if weight is not None)
        total, num_stopping = summed(np.array([own, self.wants_stop()]), self.num_processes)
        self.is_stop_wanted = num_stopping > 0
        factor = np.float32(len(group) * self.num_processes / max(float(total), 1e-6))
        return [
            inputs if weight is None else {**inputs, WEIGHTS: weight * factor}
            for inputs, weight in zip(group, weights, strict=True)
        ]


def summed(values: np.ndarray, num_processes: int) -> np.ndarray:
    """Return the sum over all processes, which must call it together."""
    if num_processes <= 1:
        return values
    tensor = paddle.to_tensor(values, dtype="float32")
    paddle.distributed.all_reduce(tensor)
    return tensor.numpy()
