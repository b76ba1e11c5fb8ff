"""The order in which rows are read: a function of the seed and the epoch alone, so that a resumed run finds it again."""

from __future__ import annotations

import numpy as np
from paddle.io import DistributedBatchSampler


class EpochBatchSampler(DistributedBatchSampler):
    """Shuffles with (seed, epoch) and deals the batches to the ranks.

    It is a DistributedBatchSampler because paddlenlp's Trainer calls `set_epoch` on nothing else. Rows are repeated
    from the front so that every rank gets the same number.
    """

    def __init__(self, dataset, *, batch_size: int, num_replicas: int, rank: int, drop_last: bool, seed: int):
        super().__init__(
            dataset, batch_size, num_replicas=num_replicas, rank=rank, shuffle=True, drop_last=drop_last
        )
        self.seed = seed
        self.num_ranks = num_replicas
        self.rank = rank

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.dataset))
        order = np.resize(order, self.total_size)[self.rank :: self.num_ranks].tolist()
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch
