"""Callbacks of a run: history of the losses, speed, recording services, and stopping on SIGTERM."""

from __future__ import annotations

import importlib
import signal
import time
from collections.abc import Callable, Iterable
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
from paddlenlp.trainer import TrainerCallback

from ..constants import IGNORE_INDEX
from ..data.sample import Batch
from ..foreign_json import Kind, check_values, list_of, number, whole_number
from ..output import write_json
from ..tensor_files.stored import CheckpointError, read_json
from ..terminal.interrupts import Preempted
from ..terminal.log import notice
from .eval_tasks import PREFIX

HISTORY = "history.json"  # in a checkpoint
LOGGED = ("loss", "eval_loss")
FLOAT = number(-1e300, 1e300)
PAIRS = list_of(list_of(FLOAT, 2, 2), least=0, most=1 << 30)  # of step and value
HISTORY_KINDS: dict[str, Kind] = {
    "loss_sum": FLOAT,
    "num_summed": whole_number(0, 1 << 40),
}
RATES = ("train_samples_per_second", "train_steps_per_second")
SWANLAB = "swanlab"


class History(TrainerCallback):
    """Records (step, value) of the logged losses, and their sum; it is saved in checkpoints.

    metrics: of evaluations, to record as well.
    """

    def __init__(self, metrics: Iterable[str] = ()):
        self.names = (*LOGGED, *metrics)
        self.values: dict[str, list[tuple[int, float]]] = {}
        self.loss_sum, self.num_summed = 0.0, 0
        self.ends: list[tuple[int, float]] = []  # of this process's first and last step, logged or not

    def add(self, loss: float, step: int) -> None:
        """Add the loss of a step."""
        self.ends = [*self.ends[:1], (step, loss)]
        self.loss_sum, self.num_summed = self.loss_sum + loss, self.num_summed + 1

    def write(self, folder: Path) -> None:
        """Write the history to a checkpoint."""
        write_json(folder / HISTORY, {**self.values, "loss_sum": self.loss_sum, "num_summed": self.num_summed})

    def read(self, folder: Path) -> None:
        """Continue a checkpoint's history, if it has one. Raises CheckpointError for a file that is not a history."""
        if not (folder / HISTORY).is_file():
            return
        values = read_json(folder / HISTORY)
        names = [name for name in values if name in LOGGED or name.startswith(PREFIX)]
        kinds = {**dict.fromkeys(names, PAIRS), **HISTORY_KINDS}
        check_values(values, kinds, str(folder / HISTORY), CheckpointError)
        pairs = {name: [(int(step), float(value)) for step, value in values[name]] for name in names}
        self.values = {name: one for name, one in pairs.items() if one}
        self.loss_sum, self.num_summed = float(values.get("loss_sum", 0.0)), int(values.get("num_summed", 0))

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name in self.names:
            if logs and name in logs:
                self.values.setdefault(name, []).append((state.global_step, float(logs[name])))

    def correct(self, metrics: dict[str, Any], *, share: float) -> None:
        """Correct the metrics of a resumed run: paddlenlp sums since it resumed, and divides by all steps.

        share: the part of all steps that were taken since then.
        """
        metrics["train_loss"] = self.loss_sum / max(self.num_summed, 1)
        for name in RATES:
            if name in metrics:
                metrics[name] = round(metrics[name] * share, 4)


class Meter(TrainerCallback):
    """Counts tokens a second while a run trains.

    num_processes: how many processes are assumed to be as fast as this one.
    """

    def __init__(self, num_processes: int):
        self.num_processes = num_processes
        self.num_tokens = self.num_trained = 0
        self._began = self._last = time.perf_counter()
        self._seen = (0, 0)
        self._ended: float | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._began = self._last = time.perf_counter()
        self._ended = None

    def on_train_end(self, args, state, control, **kwargs):
        self._ended = time.perf_counter()

    @property
    def seconds(self) -> float:
        """The time of the training so far; after its end that of all of it, without what came later."""
        return (time.perf_counter() if self._ended is None else self._ended) - self._began

    def add(self, batch: Batch) -> None:
        self.num_tokens += int((np.asarray(batch.segment_ids) > 0).sum())
        self.num_trained += int((np.asarray(batch.labels) != IGNORE_INDEX).sum())

    def recent(self) -> dict[str, float]:
        """Return the rates since the last call; empty if no batch was added."""
        now, seen = time.perf_counter(), (self.num_tokens, self.num_trained)
        counts = [new - old for new, old in zip(seen, self._seen, strict=True)]
        seconds, self._last, self._seen = now - self._last, now, seen
        return self._rates(*counts, seconds) if counts[0] else {}

    def overall(self) -> dict[str, float]:
        """Return the average rates of the training so far, after its end those of all of it."""
        return self._rates(self.num_tokens, self.num_trained, self.seconds)

    def _rates(self, num_tokens: int, num_trained: int, seconds: float) -> dict[str, float]:
        factor = self.num_processes / max(seconds, 1e-9)
        return {
            "tokens_per_second": round(num_tokens * factor, 2),
            "trained_tokens_per_second": round(num_trained * factor, 2),
        }


class SwanLab(TrainerCallback):
    """Sends the logged figures to SwanLab. Raises ValueError if its package is not installed."""

    def __init__(self):
        try:
            self.service = importlib.import_module(SWANLAB)
        except ImportError:
            raise ValueError("report_to is 'swanlab', which needs its package: pip install swanlab") from None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            settings = {name: value for name, value in args.to_dict().items() if isinstance(value, str | Number)}
            self.service.init(project="paddlemix", experiment_name=args.run_name, config=settings)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs:
            figures = {name: float(value) for name, value in logs.items() if isinstance(value, Number)}
            self.service.log(figures, step=state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.service.finish()


class StopRequest(TrainerCallback):
    """Ends training on SIGTERM: after the current step, with a checkpoint; before the first step, at once.

    is_agreed: whether all processes know of it, because they must stop after the same step.
    """

    def __init__(self):
        self.is_set = False
        self.has_begun = False
        self.is_agreed: Callable[[], bool] = lambda: self.is_set
        self.was_followed = False
        self._former = None

    def __enter__(self) -> StopRequest:
        self.has_begun = False
        self._former = signal.signal(signal.SIGTERM, self._set)
        return self

    def __exit__(self, *exception) -> None:
        signal.signal(signal.SIGTERM, self._former)

    def _set(self, number, frame) -> None:
        self.is_set = True
        if not self.has_begun:
            raise Preempted("stopped by SIGTERM before the first step, so that nothing new was trained")
        notice("SIGTERM: a checkpoint will be saved after this step, then the run ends")

    def on_step_begin(self, args, state, control, **kwargs):
        self.has_begun = True

    def on_step_end(self, args, state, control, **kwargs):
        if self.is_agreed():
            self.was_followed = control.should_save = control.should_training_stop = True
        return control
