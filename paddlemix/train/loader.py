"""Batches with the weights that make the loss of an optimizer step a mean over all of its tokens."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import paddle
from paddle.io import DataLoader

from ..checkpoints.processor import LlavaProcessor
from ..data.bad_rows import TooManyBadRowsError
from ..data.loss_weights import loss_weights
from ..data.row_note import RowNote
from ..data.sample import Batch
from ..data.workers import map_in_processes, map_in_thread
from .sampler import SKIPPED

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


WIDTH_STEP = 128  # positions


@dataclass(frozen=True)
class Failure:
    """A mistake in the data (its text), or our own (with the trace). notes: rows that were skipped before it."""

    text: str
    trace: str | None = None
    notes: tuple[RowNote, ...] = ()

    @classmethod
    def of(cls, error: Exception) -> Failure:
        is_users = isinstance(error, (ValueError, OSError))
        notes = error.notes if isinstance(error, TooManyBadRowsError) else ()
        return cls(str(error), None if is_users else traceback.format_exc(), notes)


@dataclass(frozen=True)
class Skipped:
    """A batch that a resumed run has seen before."""

    notes: tuple[RowNote, ...] = ()


class GuardedRows:
    """A data set whose items are samples, packs (lists of them) or failures; SKIPPED stays what it is."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | None):
        try:
            return SKIPPED if index is SKIPPED else self.rows[index]
        except Exception as error:  # raised again by `opened`
            return Failure.of(error)


class Collator:
    """Puts items into the dictionary that paddlenlp hands to `compute_loss`.

    is_flat: all samples behind each other in one row, so that nothing is padded and computed for nothing; else a row
    for each item, of a multiple of WIDTH_STEP positions, as devices want it that compile for shapes.
    """

    def __init__(self, processor: LlavaProcessor, *, is_flat: bool = False):
        self.processor = processor
        self.is_flat = is_flat

    def __call__(self, items) -> dict[str, Any]:
        # The loader turns arrays into tensors and leaves other objects alone, so the batch stays on the host; the
        # tensor beside it is what paddlenlp counts the rows of.
        return {"batch": self._batch(items), "segment_ids": np.zeros([len(items), 1])}

    def _batch(self, items) -> Batch | Failure | Skipped:
        if any(item is SKIPPED for item in items):
            return Skipped()
        failure = next((item for item in items if isinstance(item, Failure)), None)
        if failure is not None:
            return failure
        packs = [item if isinstance(item, list) else [item] for item in items]
        if self.is_flat:
            packs = [[sample for pack in packs for sample in pack]]
        try:
            return self.processor.collate_packs(packs, None if self.is_flat else WIDTH_STEP)
        except Exception as error:  # raised again by `opened`
            return Failure.of(error)


def opened(batch: Batch | Failure) -> Batch:
    """Return the batch. Raises ValueError for a mistake in the data, RuntimeError with the trace for our own."""
    if not isinstance(batch, Failure):
        return batch
    if batch.trace is None:
        raise ValueError(batch.text)
    raise RuntimeError(f"reading the data failed:\n{batch.trace}")
