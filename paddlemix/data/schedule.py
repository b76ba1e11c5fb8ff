"""How many optimizer steps a number of rows makes: arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass


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
