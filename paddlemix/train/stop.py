"""A request to stop, as a cluster sends it before it takes the machine away: save a checkpoint, then leave."""

from __future__ import annotations

import signal
from collections.abc import Callable

from paddlenlp.trainer import TrainerCallback

from ..interrupts import Preempted
from ..log import notice


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
