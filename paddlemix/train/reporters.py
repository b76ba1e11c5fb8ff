"""Where a run's figures go beside the terminal: paddlenlp knows most of the services, this adds SwanLab."""

from __future__ import annotations

import importlib
from numbers import Number

from paddlenlp.trainer import TrainerCallback

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
