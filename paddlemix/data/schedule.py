"""How many optimizer steps a number of rows makes: arithmetic only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_PACKED = 20_000  # rows that the estimate of packing looks at


@dataclass(frozen=True)
class Schedule:
    """The settings that steps depend on, with the defaults of paddlenlp's TrainingArguments.

    num_processes: among which the rows are dealt out. max_steps: at most 0 for none.
    """

    batch_size: int = 8
    num_accumulated: int = 1
    num_epochs: float = 1.0
    max_steps: int = -1
    num_processes: int = 1
    is_last_dropped: bool = False

    def steps(self, num_rows: int) -> tuple[int, int]:
        """Return the optimizer steps of an epoch and of the whole run.

        As `train.sampler.EpochBatchSampler` deals rows: every process gets equally many, and an epoch ends with a whole
        step. An epoch of fewer batches than accumulate is one step.
        """
        num_each = -(-num_rows // self.num_processes)
        num_batches = num_each // self.batch_size if self.is_last_dropped else -(-num_each // self.batch_size)
        num_steps = max(num_batches // self.num_accumulated, 1)
        return num_steps, self.max_steps if self.max_steps > 0 else int(num_steps * self.num_epochs)


def pack_first_fit(lengths: Sequence[int], capacity: int, seed: int = 0) -> tuple[int, float]:
    """Return how many rows of `capacity` tokens hold all samples, and how full they are on average (0 to 1).

    First fit in random order, of at most MAX_PACKED samples; the number is then that of all samples in proportion.
    Lengths over the capacity are left out.
    """
    fitting = np.asarray([length for length in lengths if 0 < length <= capacity], dtype=np.int64)
    if not len(fitting):
        return 0, 0.0
    order = np.random.default_rng(seed).permutation(fitting)[:MAX_PACKED]
    free = np.full(len(order), capacity, dtype=np.int64)  # no more bins than samples are ever needed
    num_bins = 0
    for length in order:
        index = int(np.argmax(free[: num_bins + 1] >= length))  # there is always an empty one
        free[index] -= length
        num_bins = max(num_bins, index + 1)
    fill = float(order.sum() / (num_bins * capacity))
    return round(num_bins * len(fitting) / len(order)), fill
