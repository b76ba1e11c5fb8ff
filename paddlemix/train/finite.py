"""Keeps what is no number out of a run: in the weights it starts from, in its gradients and in what it saves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import paddle
from paddle.nn.clip import _squared_l2_norm  # what gradients are clipped by, on every device
from paddlenlp.trainer import TrainerCallback

from ..tensor_files.stored import CheckpointError, preview
from .loader import summed
from .watch import LossError, LossWatch

LEAST_SCALE = 1.0  # of the loss in fp16: gradients that have no room below it have none at all
NUM_NAMED = 3  # tensors in a message
FLOATS = (paddle.float32, paddle.float16, paddle.bfloat16)


class GradientCheck(TrainerCallback):
    """Ends a run before the optimizer moves by gradients that are no numbers, in all processes alike.

    In fp16 such gradients are how the loss scale finds its size: their step is left out, and only below LEAST_SCALE
    they end the run. watch: writes down the rows; its losses are kept in the log_history of trainer_state.json, which
    paddlenlp leaves empty.
    """

    def __init__(self, watch: LossWatch, num_processes: int):
        self.watch = watch
        self.num_processes = num_processes

    def on_train_begin(self, args, state, control, **kwargs):
        self.watch.remember(entry.get("loss") for entry in state.log_history or ())

    def on_step_end(self, args, state, control, **kwargs):
        state.log_history = [{"loss": loss} for loss in self.watch.losses]

    on_log = on_step_end  # before which paddlenlp empties it

    def on_optimizer_begin(self, args, state, control, model=None, scaler=None, **kwargs):
        # A scaler that is switched off has no state.
        state_of = {} if scaler is None else scaler.state_dict()
        if "scale" in state_of and state_of["scale"].item() >= LEAST_SCALE:
            return
        gradients = dict(_gradients(model))
        if not _anywhere(not math.isfinite(_squared_norm(gradients.values())), self.num_processes):
            return
        bad = [name for name, one in gradients.items() if not math.isfinite(_squared_norm([one]))]
        shown = _shown(bad, self.num_processes) or "their norm"
        self.watch.stop(state.global_step + 1, f"its gradients are no finite numbers: {shown}")


def _gradients(model) -> Iterator[tuple[str, paddle.Tensor]]:
    """Return the gradients that this process holds, by the names of their parameters."""
    for name, parameter in model.named_parameters():
        if parameter.stop_gradient:
            continue
        # The last two are what Paddle's mixed precision and its sharding stage 3 have in place of a gradient.
        for place in ("grad", "main_grad", "bw_storage"):
            if hasattr(parameter, place) and (gradient := getattr(parameter, place)) is not None:
                yield name, gradient
                break


def _squared_norm(tensors: Iterable[paddle.Tensor]) -> float:
    """Return the sum of squares; infinite where float32 has no room for it, as it would be in clipping."""
    norms = [_squared_l2_norm(one).astype("float32").reshape([1]) for one in tensors]
    return float(paddle.concat(norms).sum()) if norms else 0.0


def watch_of(args, config) -> LossWatch:
    """Return the watch over the losses of a run. config: of its model."""
    options = {}
    if args.world_size > 1:
        options = {
            "mean": lambda loss: float(summed(np.array([loss]), args.world_size)[0]) / args.world_size,
            "gather": _gathered,
        }
    vocab_size = config.language.vocab_size
    return LossWatch(Path(args.output_dir), args.max_loss_ratio, vocab_size=vocab_size, **options)


def _gathered(value) -> list:
    """Return what every process has, in the order of their ranks; all of them must call it."""
    values: list = []
    paddle.distributed.all_gather_object(values, value)
    return values


def check_loss(loss: float, name: str) -> float:
    """Return the loss of an evaluation. Raises LossError where it is no finite number."""
    if not math.isfinite(loss):
        raise LossError(
            f"{name} is {loss}: weights, or values computed from a row, are no finite numbers. Look at the rows "
            "(paddlemix inspect-data) and at the model (paddlemix inspect)"
        )
    return loss


def check_weights(model, what: str, *, num_processes: int = 1, is_trained_only: bool = False) -> None:
    """Raise CheckpointError that names the first weights with NaN or infinite values. what: whose they are.

    is_trained_only: leave the frozen ones out, which are as they were loaded. All processes must call it.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    named = [(name, one) for name, one in named if not (is_trained_only and one.stop_gradient)]
    bad = [name for name, one in named if one.dtype in FLOATS and not _is_finite(_held(one))]
    if not _anywhere(bool(bad), num_processes):
        return
    raise CheckpointError(f"{what}: values that are no finite numbers in {_shown(bad, num_processes)}")


def _shown(names: list[str], num_processes: int) -> str:
    """Join the names that all processes have, which must call it together."""
    parts = _gathered(names) if num_processes > 1 else [names]
    return preview(dict.fromkeys(name for part in parts for name in part), NUM_NAMED)


def _held(parameter) -> paddle.Tensor:
    """Return what this process holds of a parameter: a part of it under Paddle's sharding stage 3."""
    return parameter.fw_storage if hasattr(parameter, "fw_storage") else parameter


def _is_finite(tensor) -> bool:
    wide = tensor.detach() if tensor.dtype == paddle.float32 else tensor.detach().astype("float32")
    # One pass without memory of its own; only large numbers have an infinite sum and are none the less finite.
    return math.isfinite(float(wide.sum())) or bool(np.isfinite(wide.numpy()).all())


def _anywhere(is_bad: bool, num_processes: int) -> bool:
    """Tell if something is so in any process; all of them must call it."""
    return bool(summed(np.array([float(is_bad)]), num_processes)[0])
