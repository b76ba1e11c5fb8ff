"""The order in which rows are read: a function of seed and epoch alone, so that a resumed run finds it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from paddle.io import DistributedBatchSampler

from ..data.grouping import grouped_order

SKIPPED = None  # stands for a row that a resumed run has seen before


@dataclass(frozen=True)
class Grouping:
    """What rows are sorted by: see `data.grouping.grouped_order`."""

    lengths: Sequence[int]
    has_picture: Sequence[bool] | None = None


class EpochBatchSampler(DistributedBatchSampler):
    """Shuffles with (seed, epoch) and deals the batches to the ranks.

    It is a DistributedBatchSampler because paddlenlp's Trainer calls `set_epoch` on nothing else. Rows are repeated
    from the front so that every rank gets the same number. An epoch ends with a whole optimizer step of num_accumulated
    batches: the Trainer would add the gradients of further ones to the next epoch's first step.

    grouping: put rows that are alike together. num_skipped: batches of the first epoch that is read which a resumed run
    throws away: they come as SKIPPED, so that nothing is read for them. is_over: they are the last ones.
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
        grouping: Grouping | None = None,
    ):
        super().__init__(dataset, batch_size, num_replicas=num_replicas, rank=rank, shuffle=True, drop_last=drop_last)
        self.seed = seed
        self.num_ranks = num_replicas
        self.rank = rank
        self.num_accumulated = num_accumulated
        self.grouping = grouping
        self.num_skipped = 0
        self.is_over = False

    @classmethod
    def of(cls, dataset, args, grouping: Grouping | None) -> EpochBatchSampler:
        """Return the sampler that a run's TrainingArguments ask for."""
        return cls(
            dataset,
            batch_size=args.per_device_train_batch_size,
            num_replicas=args.dataset_world_size,
            rank=args.dataset_rank,
            drop_last=args.dataloader_drop_last,
            seed=args.seed,
            num_accumulated=args.gradient_accumulation_steps,
            grouping=grouping,
        )

    @property
    def num_left_out(self) -> int:
        """Batches of a rank that fill no optimizer step; none where all batches together fill none."""
        num_batches = super().__len__()
        return num_batches % self.num_accumulated if num_batches > self.num_accumulated else 0

    def begin_after(self, num_done: int, num_steps: int) -> None:
        """Leave out what the steps that are done have read; if that are all steps, what is left as well."""
        self.num_skipped = num_done % max(len(self) // self.num_accumulated, 1) * self.num_accumulated
        self.is_over = num_done >= num_steps

    def __len__(self) -> int:
        return super().__len__() - self.num_left_out

    def __iter__(self):
        order = np.resize(self._order(), self.total_size)[self.rank :: self.num_ranks].tolist()
        num_skipped, self.num_skipped = self.num_skipped, 0
        for number in range(num_skipped if self.is_over else len(self)):
            rows = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield [SKIPPED] * len(rows) if number < num_skipped else rows

    def _order(self) -> np.ndarray:
        generator = np.random.default_rng([self.seed, self.epoch])
        if self.grouping is None:
            return generator.permutation(len(self.dataset))
        group = self.batch_size * self.num_ranks
        return grouped_order(self.grouping.lengths, group, generator, self.grouping.has_picture)
