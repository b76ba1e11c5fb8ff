"""The order in which rows are read: a function of seed and epoch alone, so that a resumed run finds it again."""

from __future__ import annotations

import numpy as np
from paddle.io import DistributedBatchSampler


class EpochBatchSampler(DistributedBatchSampler):
    """Shuffles with (seed, epoch) and deals the batches to the ranks.

    It is a DistributedBatchSampler because paddlenlp's Trainer calls `set_epoch` on nothing else. Rows are repeated
    from the front so that every rank gets the same number. An epoch ends with a whole optimizer step of num_accumulated
    batches: the Trainer would add the gradients of further ones to the next epoch's first step.
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
    ):
        super().__init__(dataset, batch_size, num_replicas=num_replicas, rank=rank, shuffle=True, drop_last=drop_last)
        self.seed = seed
        self.num_ranks = num_replicas
        self.rank = rank
        self.num_accumulated = num_accumulated

    @property
    def num_left_out(self) -> int:
        """Batches of a rank that fill no optimizer step; none where all batches together fill none."""
        num_batches = super().__len__()
        return num_batches % self.num_accumulated if num_batches > self.num_accumulated else 0

    def __len__(self) -> int:
        return super().__len__() - self.num_left_out

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.dataset))
        order = np.resize(order, self.total_size)[self.rank :: self.num_ranks].tolist()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size]
