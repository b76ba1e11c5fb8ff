"""What a person sees of a run: a bar with the loss, the speed and the time left."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Callable
from numbers import Number
from pathlib import Path
from typing import Any

from paddlenlp.trainer import ProgressCallback, TrainerCallback

from ..foreign_json import Kind, check_values, list_of, number, whole_number
from ..output import write_json
from ..tensor_files.stored import CheckpointError, read_json
from ..terminal.interrupts import Preempted
from ..terminal.log import notice

HISTORY = "history.json"  # of a checkpoint
LOGGED = ("loss", "eval_loss")
FLOAT = number(-1e300, 1e300)
PAIR = Kind(
    lambda value: isinstance(value, list) and len(value) == 2 and all(map(FLOAT.is_good, value)), "a step and a number"
)
HISTORY_KINDS: dict[str, Kind] = {
    **dict.fromkeys(LOGGED, list_of(PAIR, least=0, most=1 << 30)),
    "loss_sum": FLOAT,
    "num_summed": whole_number(0, 1 << 40),
}
RATES = ("train_samples_per_second", "train_steps_per_second")
SHOWN = {"loss": "loss", "tokens_per_second": "tok/s", "trained_tokens_per_second": "trained/s", "eval_loss": "eval"}


class Progress(ProgressCallback):
    """paddlenlp's bar, with the latest figures behind it; the log lines stay as they are."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_local_process_zero and self.training_bar is not None and logs:
            figures = {short: f"{logs[name]:.4g}" for name, short in SHOWN.items() if name in logs}
            self.training_bar.set_postfix(figures, refresh=False)
        super().on_log(args, state, control, logs=logs, **kwargs)


class History(TrainerCallback):
    """Keeps (step, value) of what is logged, and the sum of the losses; checkpoints hold it, too."""

    def __init__(self):
        self.values: dict[str, list[tuple[int, float]]] = {}
        self.loss_sum, self.num_summed = 0.0, 0

    def add(self, loss: float) -> None:
        """Take the loss of a step."""
        self.loss_sum, self.num_summed = self.loss_sum + loss, self.num_summed + 1

    @property
    def mean_loss(self) -> float:
        return self.loss_sum / max(self.num_summed, 1)

    def write(self, folder: Path) -> None:
        """Write it to a checkpoint."""
        write_json(folder / HISTORY, {**self.values, "loss_sum": self.loss_sum, "num_summed": self.num_summed})

    def read(self, folder: Path) -> None:
        """Go on with that of a checkpoint, if it has any. Raises CheckpointError for what `write` does not write."""
        if not (folder / HISTORY).is_file():
            return
        values = read_json(folder / HISTORY)
        check_values(values, HISTORY_KINDS, str(folder / HISTORY), CheckpointError)
        pairs = {name: [(int(step), float(value)) for step, value in values.get(name, [])] for name in LOGGED}
        self.values = {name: one for name, one in pairs.items() if one}
        self.loss_sum, self.num_summed = float(values.get("loss_sum", 0.0)), int(values.get("num_summed", 0))

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name in LOGGED:
            if logs and name in logs:
                self.values.setdefault(name, []).append((state.global_step, float(logs[name])))

    def settle(self, metrics: dict[str, Any], *, share: float) -> None:
        """Put right what a resumed run's metrics say: paddlenlp sums since then, and divides by all steps.

        share: of all steps, those that this process made.
        """
        metrics["train_loss"] = self.mean_loss
        for name in RATES:
            if name in metrics:
                metrics[name] = round(metrics[name] * share, 4)


SWANLAB = "swanlab"


class SwanLab(TrainerCallback):
    """Sends what is logged to SwanLab. Raises ValueError where its package is not installed."""

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


def own_reporters(names: list[str]) -> tuple[list[str], list[TrainerCallback]]:
    """Return the names that paddlenlp knows and the callbacks of the others. Raises ValueError."""
    return [name for name in names if name != SWANLAB], [SwanLab()] if SWANLAB in names else []


class StopRequest(TrainerCallback):
    """Ends training after the step in which SIGTERM arrived, with a checkpoint; before the first step, at once.

    is_agreed: whether all processes know of it; they must stop after the same step.
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
