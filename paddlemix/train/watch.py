"""End a run whose losses, gradients or weights are not finite, or whose loss leaps, before anything of it is saved."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.nn.clip import _squared_l2_norm  # computes the norms for gradient clipping, on every device
from paddlenlp.trainer import TrainerCallback

from ..output import write_json
from ..tensor_files.stored import CheckpointError, preview
from .processes import gather, is_true_anywhere, sum_over_processes
from .sharding import part_of

FILE = "bad_step.json"
NUM_REMEMBERED, NUM_NEEDED = 50, 20  # losses for the median that a leap is measured from
MIN_LEAP = 3.0  # above the median in any case, because small losses multiply easily
# A loss of more than three times ln(vocab_size), the loss of guessing, is a leap even in the first step, unless the
# losses before were as high. A batch of one short answer may cost nothing, and the next one more than guessing.
NUM_GUESSES = 3.0
MIN_SCALE = 1.0  # of the loss in fp16: gradients that overflow with less overflow always
NUM_NAMED = 3  # tensors in a message
FLOATS = (paddle.float32, paddle.float16, paddle.bfloat16)


class LossError(ValueError):
    """A loss that training cannot continue from."""


class LossWatch:
    """Checks the loss of every step before the optimizer changes the weights.

    max_ratio: a loss is a leap if it is more than max_ratio times the median of the last NUM_REMEMBERED losses, and
    more than twice the highest; 0: never. folder: for bad_step.json. vocab_size: sets the limit while there are few
    losses; None: no limit then. num_processes: all of them call `add` together. Their mean loss is checked, so that all
    stop at the same step.
    """

    def __init__(self, folder: Path, max_ratio: float, *, vocab_size: int | None = None, num_processes: int = 1):
        self.folder = folder
        self.max_ratio = max_ratio
        self.guess = math.inf if vocab_size is None else math.log(vocab_size)
        self.num_processes = num_processes
        self._losses: deque[float] = deque(maxlen=NUM_REMEMBERED)
        self._step_loss = self._loss = 0.0  # of this process, of all processes
        self._rows: list[str] = []
        self._is_step_over = False

    @property
    def losses(self) -> list[float]:
        """The losses that a leap is measured from."""
        return list(self._losses)

    def remember(self, losses: Iterable[Any]) -> None:
        """Add the losses of the steps before the checkpoint that a run resumes from."""
        self._losses.extend(loss for loss in losses if isinstance(loss, float) and math.isfinite(loss))

    def add(self, loss: float, rows: Sequence[str], *, step: int, is_last: bool) -> None:
        """Add a batch's share of a step's loss. Raises LossError that names the first rows and the file."""
        if self._is_step_over:
            self._step_loss, self._rows, self._is_step_over = 0.0, [], False
        self._step_loss += loss
        self._rows += rows
        # Several processes can only compare at the end of a step.
        if is_last or (self.num_processes <= 1 and not math.isfinite(self._step_loss)):
            self._judge(step)

    def _judge(self, step: int) -> None:
        self._is_step_over = True
        total = sum_over_processes(np.array([self._step_loss]), self.num_processes)
        self._loss = loss = float(total[0]) / self.num_processes
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
        return min(absurd, max(self.max_ratio * middle, middle + MIN_LEAP, 2 * max(self._losses)))

    def stop(self, step: int, what: str, hint: str = "") -> None:
        """Raise LossError for the latest rows, and write them to the file. All processes must call it."""
        # The rows with a loss that is not finite come first, then those with the highest.
        parts = gather((self._step_loss, self._rows), self.num_processes)
        parts = sorted(parts, key=lambda part: -part[0] if math.isfinite(part[0]) else -math.inf)
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


class GradientCheck(TrainerCallback):
    """Ends a run, in all processes alike, before the optimizer uses gradients that are not finite.

    In fp16 such gradients are normal: the step is left out and the loss scale is lowered. They end the run only where
    the scale is below MIN_SCALE. watch: reports the rows. Its losses are saved in the log_history of
    trainer_state.json, which paddlenlp leaves empty.
    """

    def __init__(self, watch: LossWatch):
        self.watch = watch

    def on_train_begin(self, args, state, control, **kwargs):
        self.watch.remember(entry.get("loss") for entry in state.log_history or ())

    def on_step_end(self, args, state, control, **kwargs):
        state.log_history = [{"loss": loss} for loss in self.watch.losses]

    on_log = on_step_end  # paddlenlp empties log_history before it logs

    def on_optimizer_begin(self, args, state, control, model=None, scaler=None, **kwargs):
        scaler_state = {} if scaler is None else scaler.state_dict()  # empty for a scaler that is switched off
        if "scale" in scaler_state and scaler_state["scale"].item() >= MIN_SCALE:
            return
        gradients = dict(_gradients(model))
        if not is_true_anywhere(not math.isfinite(_squared_norm(gradients.values())), self.watch.num_processes):
            return
        bad = [name for name, one in gradients.items() if not math.isfinite(_squared_norm([one]))]
        shown = _shown(bad, self.watch.num_processes) or "their norm"
        self.watch.stop(state.global_step + 1, f"its gradients are not finite: {shown}")


def _gradients(model) -> Iterator[tuple[str, paddle.Tensor]]:
    """Yield the gradients in this process, by the names of their parameters."""
    for name, parameter in model.named_parameters():
        if parameter.stop_gradient:
            continue
        # Paddle's mixed precision and its sharding stage 3 use the last two in place of `grad`.
        for place in ("grad", "main_grad", "bw_storage"):
            if hasattr(parameter, place) and (gradient := getattr(parameter, place)) is not None:
                yield name, gradient
                break


def _squared_norm(tensors: Iterable[paddle.Tensor]) -> float:
    """Return the sum of squares; infinite where it overflows float32, as in gradient clipping."""
    norms = [_squared_l2_norm(one).astype("float32").reshape([1]) for one in tensors]
    return float(paddle.concat(norms).sum()) if norms else 0.0


def check_loss(loss: float, name: str) -> float:
    """Return the loss of an evaluation. Raises LossError if it is not finite."""
    if not math.isfinite(loss):
        raise LossError(
            f"{name} is {loss}: weights, or values computed from a row, are not finite. Look at the rows "
            "(paddlemix inspect-data) and at the model (paddlemix inspect)"
        )
    return loss


def check_weights(model, what: str, *, num_processes: int = 1, is_trained_only: bool = False) -> None:
    """Raise CheckpointError that names the first weights with NaN or infinite values. what: whose weights they are.

    is_trained_only: leave out the frozen ones, which have not changed. All processes must call it.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    named = [(name, one) for name, one in named if not (is_trained_only and one.stop_gradient)]
    bad = [name for name, one in named if one.dtype in FLOATS and not _is_finite(part_of(one))]
    if not is_true_anywhere(bool(bad), num_processes):
        return
    raise CheckpointError(f"{what}: values that are not finite in {_shown(bad, num_processes)}")


def _shown(names: list[str], num_processes: int) -> str:
    """Join the names of all processes, which must call it together."""
    parts = gather(names, num_processes)
    return preview(dict.fromkeys(name for part in parts for name in part), NUM_NAMED)


def _is_finite(tensor) -> bool:
    wide = tensor.detach() if tensor.dtype == paddle.float32 else tensor.detach().astype("float32")
    # The sum takes one pass and no memory. It can overflow for large finite numbers, which the second test allows.
    return math.isfinite(float(wide.sum())) or bool(np.isfinite(wide.numpy()).all())
