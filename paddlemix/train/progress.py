"""What a person sees of a run: a bar with the loss, the speed and the time left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paddlenlp.trainer import ProgressCallback, TrainerCallback

from ..checkpoints.files import CheckpointError, read_json
from ..foreign_json import Kind, check_values, list_of, number, whole_number
from ..output import write_json

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
