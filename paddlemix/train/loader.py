"""From rows to the batches of a step: the order of the rows, their reading, and the weights of the batches.

The order is a function of seed and epoch alone, so that a resumed run continues in it. The weights make the loss of an
optimizer step a mean over all of its tokens, whatever batches and processes they are in.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle.io import DataLoader, DistributedBatchSampler

from ..checkpoints.processor import LlavaProcessor
from ..data.bad_rows import TooManyBadRowsError
from ..data.collate import loss_weights
from ..data.grouping import grouped_order
from ..data.row_note import RowNote
from ..data.sample import Batch
from ..data.workers import map_in_processes, map_in_thread
from .processes import sum_over_processes

WEIGHTS = "loss_weights"
SKIPPED = None  # placeholder for the index of a row, the row or its batch if a resumed run has trained on it already
PAD_MULTIPLE = 128  # positions


@dataclass(frozen=True)
class Grouping:
    """The properties that rows are grouped by. See `data.grouping.grouped_order`."""

    lengths: Sequence[int]
    has_image: Sequence[bool] | None = None


@dataclass(frozen=True)
class StoredOrder:
    """The order in which rows are stored, int64 [rows], so that the files of a cache are read from front to back."""

    numbers: np.ndarray


class EpochBatchSampler(DistributedBatchSampler):
    """Shuffles rows by (seed, epoch) and deals the batches to the ranks.

    It is a DistributedBatchSampler because paddlenlp's Trainer calls `set_epoch` on nothing else. Rows are repeated
    from the front so that every rank gets the same number. An epoch ends with a whole optimizer step of num_accumulated
    batches: the Trainer would add the gradients of further ones to the next epoch's first step.

    grouping: put similar rows together, or take them as they are stored, in each epoch. num_skipped: the batches that a
    resumed run skips in its first epoch. They are yielded as SKIPPED, so that nothing is read for them. is_finished:
    nothing is left to train after them.
    """

    def __init__(
        self,
        dataset,
        *,
        batch_size: int,
        num_replicas: int,
        rank: int,
        drop_last: bool,
        seed: int,
        num_accumulated: int = 1,
        grouping: Grouping | StoredOrder | None = None,
    ):
        super().__init__(dataset, batch_size, num_replicas=num_replicas, rank=rank, shuffle=True, drop_last=drop_last)
        self.seed = seed
        self.num_ranks = num_replicas
        self.rank = rank
        self.num_accumulated = num_accumulated
        self.grouping = grouping
        self.num_skipped = 0
        self.is_finished = False

    @property
    def num_left_out(self) -> int:
        """Leftover batches per rank that do not complete an optimizer step; 0 if an epoch has less than one step."""
        num_batches = super().__len__()
        return num_batches % self.num_accumulated if num_batches > self.num_accumulated else 0

    def resume_after(self, num_done: int, num_steps: int) -> None:
        """Skip the batches that the first num_done of num_steps steps consumed."""
        self.num_skipped = num_done % max(len(self) // self.num_accumulated, 1) * self.num_accumulated
        self.is_finished = num_done >= num_steps

    def __len__(self) -> int:
        return super().__len__() - self.num_left_out

    def __iter__(self):
        order = np.resize(self._order(), self.total_size)[self.rank :: self.num_ranks].tolist()
        num_skipped, self.num_skipped = self.num_skipped, 0
        for number in range(num_skipped if self.is_finished else len(self)):
            rows = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield [SKIPPED] * len(rows) if number < num_skipped else rows

    def _order(self) -> np.ndarray:
        if isinstance(self.grouping, StoredOrder):
            return self.grouping.numbers
        generator = np.random.default_rng([self.seed, self.epoch])
        if self.grouping is None:
            return generator.permutation(len(self.dataset))
        group = self.batch_size * self.num_ranks
        return grouped_order(self.grouping.lengths, group, generator, self.grouping.has_image)


@dataclass(frozen=True)
class Failure:
    """An error while reading data: a user error (text only) or an internal error (with its trace).

    notes: on the rows that were skipped before it.
    """

    text: str
    trace: str | None = None
    notes: tuple[RowNote, ...] = ()

    @classmethod
    def of(cls, error: Exception) -> Failure:
        is_user_error = isinstance(error, (ValueError, OSError))
        notes = error.notes if isinstance(error, TooManyBadRowsError) else ()
        return cls(str(error), None if is_user_error else traceback.format_exc(), notes)


def batch_or_raise(batch: Batch | Failure) -> Batch:
    """Return the batch. Raises ValueError for a user error, RuntimeError with the trace for an internal error."""
    if not isinstance(batch, Failure):
        return batch
    if batch.trace is None:
        raise ValueError(batch.text)
    raise RuntimeError(f"reading the data failed:\n{batch.trace}")


class GuardedRows:
    """A data set whose items are samples, packs (lists of samples), Failures, and SKIPPED for the index SKIPPED."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | None):
        try:
            return SKIPPED if index is SKIPPED else self.rows[index]
        except Exception as error:  # raised again by `batch_or_raise`
            return Failure.of(error)


class Collator:
    """Collates items into the dictionary that paddlenlp hands to `compute_loss`.

    is_flat: all samples of a batch in one row, one after the other, so that there is no padding. Else each item is a
    row, padded to a multiple of PAD_MULTIPLE positions, for devices that compile one program per tensor shape.
    """

    def __init__(self, processor: LlavaProcessor, *, is_flat: bool = False):
        self.processor = processor
        self.is_flat = is_flat

    def __call__(self, items) -> dict[str, Any]:
        # The loader converts arrays to tensors and leaves other objects alone, so the batch stays on the host.
        # paddlenlp counts the rows of the tensor beside it.
        return {"batch": self._batch(items), "segment_ids": np.zeros([len(items), 1])}

    def _batch(self, items) -> Batch | Failure | None:
        if any(item is SKIPPED for item in items):
            return SKIPPED
        failure = next((item for item in items if isinstance(item, Failure)), None)
        if failure is not None:
            return failure
        packs = [item if isinstance(item, list) else [item] for item in items]
        if self.is_flat:
            packs = [[sample for pack in packs for sample in pack]]
        try:
            return self.processor.collate_packs(packs, None if self.is_flat else PAD_MULTIPLE)
        except Exception as error:  # raised again by `batch_or_raise`
            return Failure.of(error)


class RowLoader(DataLoader):
    """Reads batches ahead in a thread or in processes, as Paddle's loader does, but can be interrupted.

    It is a DataLoader because paddlenlp's Trainer asks for one.
    """

    def __iter__(self) -> Iterator[dict[str, Any]]:

        def read(indices: Sequence[int | None]) -> dict[str, Any]:
            return self.collate_fn([self.dataset[index] for index in indices])

        if self.num_workers:
            batches = map_in_processes(read, self.batch_sampler, num_processes=self.num_workers, method="fork")
        else:
            batches = map_in_thread(read, self.batch_sampler)
        with closing(batches):
            for inputs in batches:
                # paddlenlp only counts the rows of these tensors; the model moves the batch to the device later.
                yield {
                    key: paddle.to_tensor(value, place=paddle.CPUPlace()) if isinstance(value, np.ndarray) else value
                    for key, value in inputs.items()
                }


class StepLoader(RowLoader):
    """Reads the num_accumulated batches of a step before it yields the first, to count their trained tokens together.

    If every batch had its own mean, an answer of one word would weigh as much as one of a thousand words in another
    batch or on another process.
    reduction: as in `loss_weights`. wants_stop: whether this process was asked to stop; is_stop_wanted: whether any
    process was when the latest step was read, the same in all processes.
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
                yield from self._weighted(group)
                group = []
        yield from self._weighted(group)

    def _weighted(self, group: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the batches with weights: the Trainer takes the mean over batches and over processes."""
        batches = [inputs["batch"] for inputs in group]
        if not any(isinstance(batch, Batch) for batch in batches):
            return group  # batches that a resumed run skips, or failures to be raised where they are used
        weights = [loss_weights(batch, self.reduction) if isinstance(batch, Batch) else None for batch in batches]
        here = sum(float(weight.sum()) for weight in weights if weight is not None)
        total, num_stopping = sum_over_processes(np.array([here, self.wants_stop()]), self.num_processes)
        self.is_stop_wanted = num_stopping > 0
        factor = np.float32(len(group) * self.num_processes / max(float(total), 1e-6))
        return [
            inputs if weight is None else {**inputs, WEIGHTS: weight * factor}
            for inputs, weight in zip(group, weights, strict=True)
        ]
