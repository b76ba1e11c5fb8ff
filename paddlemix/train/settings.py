"""The settings that decide what training reads, out of a configuration: without paddle, and so in no time."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any

from ..data.bad_rows import BadRowPolicy
from .bounds import check_bounds
from .config_file import convert


def trains(do_train: bool | None, do_eval: bool | None) -> bool:
    """Tell if a run trains, from what its settings state: where they say nothing, it does."""
    return not do_eval if do_train is None else do_train


def check_work(do_train: bool, do_eval: bool) -> None:
    """Raise ValueError where a run would neither train nor evaluate."""
    if not (do_train or do_eval):
        raise ValueError(
            "do_train is false and do_eval is not true: nothing would be done; leave do_train out to train, or set "
            "do_eval: true to evaluate"
        )


@dataclass(frozen=True)
class DataSettings:
    """The keys of a run that concern its data; names and defaults are those of `arguments` and of paddlenlp."""

    model_name_or_path: str | None = None
    dataset: dict | list | str | None = None
    image_folder: str | None = None
    max_length: int = 2048
    conv_mode: str | None = None
    version: str | None = None
    seed: int = 42
    on_bad_sample: str | None = None
    max_bad_samples: int | float | None = None
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    num_train_epochs: float = 1.0
    max_steps: int = -1
    dataloader_drop_last: bool = False
    mixtoken: bool = False
    packing: bool = False
    do_train: bool | None = None
    do_eval: bool | None = None
    evaluation_strategy: str = "no"

    @classmethod
    def read(cls, values: dict[str, Any]) -> DataSettings:
        """Take what is here of a run's values. Raises ValueError for a value of the wrong type or out of range."""
        hints = typing.get_type_hints(cls)
        names = [item.name for item in dataclasses.fields(cls)]
        # A file may name a key without a value, which leaves the default.
        own = {name: convert(name, values[name], hints[name]) for name in names if values.get(name) is not None}
        check_bounds(own)
        return cls(**own)

    @property
    def split(self) -> str:
        """The rows that are read first. Raises ValueError where none are, as a run would."""
        if trains(self.do_train, self.do_eval):
            return "train"
        check_work(False, self.do_eval or self.evaluation_strategy != "no")
        return "eval"

    @property
    def policy(self) -> BadRowPolicy:
        return BadRowPolicy(self.on_bad_sample, self.max_bad_samples)

    @property
    def is_packed(self) -> bool:
        return self.mixtoken or self.packing

    def schedule(self, num_processes: int) -> Schedule:
        """Return what the number of steps follows from."""
        return Schedule(
            self.per_device_train_batch_size,
            self.gradient_accumulation_steps,
            self.num_train_epochs,
            self.max_steps,
            num_processes,
            self.dataloader_drop_last,
        )


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
