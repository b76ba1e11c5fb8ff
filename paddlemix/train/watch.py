"""Stops a run whose loss is no number or leaps, and writes down the rows of that step."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from ..output import write_json

FILE = "bad_step.json"
NUM_REMEMBERED, NUM_NEEDED = 50, 20  # losses whose median a leap is measured from
LEAST_LEAP = 3.0  # above the median, whatever it is: small losses multiply easily


class LossError(ValueError):
    """A loss that training cannot go on from."""


class LossWatch:
    """Looks at the loss of every step before the optimizer moves.

    max_ratio: a loss above so many times the median of the last NUM_REMEMBERED is a leap; 0: none is. folder: where
    bad_step.json is written.
    """

    def __init__(self, folder: Path, max_ratio: float):
        self.folder = folder
        self.max_ratio = max_ratio
        self._losses: deque[float] = deque(maxlen=NUM_REMEMBERED)
        self._step_loss = 0.0
        self._rows: list[str] = []

    def add(self, loss: float, rows: Sequence[str], *, step: int, is_last: bool) -> None:
        """Take the share of a step's loss that a batch has. Raises LossError, naming the first rows and the file."""
        self._step_loss += loss
        self._rows += rows
        if not math.isfinite(self._step_loss):
            self._stop(step, f"the loss is {self._step_loss}")
        if not is_last:
            return
        middle = statistics.median(self._losses) if len(self._losses) >= NUM_NEEDED else math.inf
        if self.max_ratio and self._step_loss > max(self.max_ratio * middle, middle + LEAST_LEAP):
            self._stop(step, f"the loss leapt to {self._step_loss:.4g}, from a median of {middle:.4g}")
        self._losses.append(self._step_loss)
        self._step_loss, self._rows = 0.0, []

    def _stop(self, step: int, what: str) -> None:
        path = self.folder / FILE
        self.folder.mkdir(parents=True, exist_ok=True)
        before = [round(loss, 6) for loss in self._losses]
        write_json(path, {"step": step, "loss": repr(self._step_loss), "losses_before": before, "rows": self._rows})
        shown = "; ".join(self._rows[:4]) + (f" and {len(self._rows) - 4} more" if len(self._rows) > 4 else "")
        raise LossError(
            f"stopped before step {step}: {what}. Its rows, all of them in {path}: {shown}. Look at them "
            "(paddlemix inspect-data), lower learning_rate or raise warmup_ratio; max_loss_ratio 0 allows leaps"
        )
