"""Stops a run whose loss is no number or leaps, and writes down the rows of that step."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..constants import IGNORE_INDEX
from ..data.sample import Batch
from ..output import write_json

FILE = "bad_step.json"
NUM_REMEMBERED, NUM_NEEDED = 50, 20  # losses whose median a leap is measured from
LEAST_LEAP = 3.0  # above the median, whatever it is: small losses multiply easily
# A loss of more than three times ln(vocab_size), which is what guessing costs, is a leap from the first step on, unless
# the losses before were as high. A batch of one short answer can cost nothing, and the next one more than guessing.
NUM_GUESSES = 3.0


class LossError(ValueError):
    """A loss that training cannot go on from."""


class LossWatch:
    """Looks at the loss of every step before the optimizer moves.

    max_ratio: a loss above so many times the median of the last NUM_REMEMBERED, and twice the highest, is a leap; 0:
    none is. folder: where bad_step.json is written. vocab_size: tells a leap while there are few losses; None: none of
    these is one. mean, gather: from a number to the mean over all processes, from a value to the list of theirs; all
    processes call them together. What is looked at is the mean loss, so that all stop at the same step.
    """

    def __init__(
        self,
        folder: Path,
        max_ratio: float,
        *,
        vocab_size: int | None = None,
        mean: Callable[[float], float] | None = None,
        gather: Callable[[Any], list] = lambda value: [value],
    ):
        self.folder = folder
        self.max_ratio = max_ratio
        self.guess = math.inf if vocab_size is None else math.log(vocab_size)
        self._mean, self._gather = mean, gather
        self._losses: deque[float] = deque(maxlen=NUM_REMEMBERED)
        self._step_loss = self._loss = 0.0  # of this process, of all
        self._rows: list[str] = []
        self._is_step_over = False

    @property
    def losses(self) -> list[float]:
        """The losses that a leap is measured from."""
        return list(self._losses)

    def remember(self, losses: Iterable[Any]) -> None:
        """Take the losses of the steps before this run went on from a checkpoint."""
        self._losses.extend(loss for loss in losses if isinstance(loss, float) and math.isfinite(loss))

    def add(self, loss: float, rows: Sequence[str], *, step: int, is_last: bool) -> None:
        """Take the share of a step's loss that a batch has. Raises LossError, naming the first rows and the file."""
        if self._is_step_over:
            self._step_loss, self._rows, self._is_step_over = 0.0, [], False
        self._step_loss += loss
        self._rows += rows
        # Several processes have to wait for each other with what they find.
        if is_last or (self._mean is None and not math.isfinite(self._step_loss)):
            self._judge(step)

    def _judge(self, step: int) -> None:
        self._is_step_over = True
        self._loss = loss = self._step_loss if self._mean is None else self._mean(self._step_loss)
        if not math.isfinite(loss):
            self.stop(step, f"the loss is {loss}")
        if self.max_ratio and loss > self._limit():
            leap = f"the loss leapt to {loss:.4g}, from a median of {self._median():.4g}"
            start = f"the first loss is {loss:.4g}, where guessing costs {self.guess:.4g}"
            self.stop(step, leap if self._losses else start, hint="; max_loss_ratio 0 allows leaps")
        self._losses.append(loss)

    def _median(self) -> float:
        return statistics.median(self._losses) if self._losses else 0.0

    def _limit(self) -> float:
        """Return the loss above which a step is a leap."""
        middle = self._median()
        absurd = max(NUM_GUESSES * self.guess, self.max_ratio / 3 * middle)
        if len(self._losses) < NUM_NEEDED:
            return absurd
        return min(absurd, max(self.max_ratio * middle, middle + LEAST_LEAP, 2 * max(self._losses)))

    def stop(self, step: int, what: str, hint: str = "") -> None:
        """Raise LossError for the rows that came last. All processes must call it."""
        # Those whose loss is no number, or else the highest, come first.
        parts = sorted(self._gather((self._step_loss, self._rows)), key=lambda part: -_badness(part[0]))
        rows = [row for _, part_rows in parts for row in part_rows]
        path = self.folder / FILE
        self.folder.mkdir(parents=True, exist_ok=True)
        before = [round(loss, 6) for loss in self._losses]
        write_json(path, {"step": step, "loss": repr(self._loss), "losses_before": before, "rows": rows})
        shown = "; ".join(rows[:4]) + (f" and {len(rows) - 4} more" if len(rows) > 4 else "")
        raise LossError(
            f"stopped before step {step}: {what}. Its rows, all of them in {path}: {shown}. Look at them "
            f"(paddlemix inspect-data), lower learning_rate or raise warmup_ratio{hint}"
        )


def _badness(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


class Meter:
    """Counts the tokens of this process's batches; num_processes of them are taken to be as fast."""

    def __init__(self, num_processes: int):
        self.num_processes = num_processes
        self.num_tokens = self.num_trained = 0
        self._began = self._last = time.perf_counter()
        self._seen = (0, 0)

    def begin(self) -> None:
        """Count time from here."""
        self._began = self._last = time.perf_counter()

    def add(self, batch: Batch) -> None:
        self.num_tokens += int((np.asarray(batch.segment_ids) > 0).sum())
        self.num_trained += int((np.asarray(batch.labels) != IGNORE_INDEX).sum())

    def recent(self) -> dict[str, float]:
        """Return the rates since this was asked the last time; empty where nothing was counted."""
        now, seen = time.perf_counter(), (self.num_tokens, self.num_trained)
        counts = [new - old for new, old in zip(seen, self._seen, strict=True)]
        seconds, self._last, self._seen = now - self._last, now, seen
        return self._rates(*counts, seconds) if counts[0] else {}

    def overall(self) -> dict[str, float]:
        """Return the rates since the beginning."""
        return self._rates(self.num_tokens, self.num_trained, time.perf_counter() - self._began)

    def _rates(self, num_tokens: int, num_trained: int, seconds: float) -> dict[str, float]:
        factor = self.num_processes / max(seconds, 1e-9)
        return {
            "tokens_per_second": round(num_tokens * factor, 2),
            "trained_tokens_per_second": round(num_trained * factor, 2),
        }
