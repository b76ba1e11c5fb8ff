"""What a run shows while it trains: a bar on a terminal, and elsewhere a line at each logging step."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from paddlenlp.trainer import TrainerCallback
from tqdm import tqdm

from ..terminal.hidden import print_above
from ..terminal.visible import visible

BAR = "{n_fmt}/{total_fmt} {bar} {desc}"
BLOCKS = "─━"  # what is to do, what is done


class Progress(TrainerCallback):
    """Shows the steps, the loss, the tokens a second and the time left of one process's trainer.

    has_bar: standard output is a terminal that nobody else writes to.
    """

    def __init__(self, trainer, *, has_bar: bool):
        self.trainer = trainer
        self.has_bar = has_bar
        self.began = time.perf_counter()
        self._first = 0  # steps before the checkpoint that the run resumes from
        self._loss: float | None = None
        self._speed: float | None = None  # tokens a second since the last logging step, at the end of the whole run
        self._evaluated: int | None = None  # the step of the last evaluation
        self._bar: tqdm | None = None
        self._evaluation: tqdm | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._first, self.began = state.global_step, time.perf_counter()
        if self.has_bar:
            self._bar = _bar(state.max_steps, state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            self._loss = self.trainer.watch.losses[-1]
            self._bar.set_description_str(self._figures(state), refresh=False)
            self._bar.update(state.global_step - self._bar.n)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if not self.has_bar:
            return
        if self._evaluation is None:
            self._evaluation = tqdm(
                total=len(eval_dataloader), desc="evaluating", leave=False, file=sys.stdout, **_width()
            )
        self._evaluation.update(1)

    def on_evaluate(self, args, state, control, **kwargs):
        if self._evaluation is not None:
            self._evaluation.close()
        self._evaluation = None

    def on_log(self, args, state, control, logs=None, **kwargs):
        logs = logs or {}
        if "loss" in logs:
            self._loss, self._speed = logs["loss"], logs.get("tokens_per_second", self._speed)
            if self._bar is None:
                self._print(f"step {state.global_step:,} of {state.max_steps:,}  {self._figures(state)}")
        found = evaluated(logs, self.trainer.data.main_metrics)
        if found and state.global_step != self._evaluated:  # the result is evaluated once more
            where = f"after step {state.global_step:,}" if state.global_step else "before training"
            self._print(f"evaluation {where}: {', '.join(found)}")
            self._evaluated = state.global_step

    def on_train_end(self, args, state, control, **kwargs):
        if self._bar is not None:  # it stays with the figures of the whole run
            self._speed = self.trainer.meter.overall()["tokens_per_second"]
            self._bar.set_description_str(self._figures(state))
        self.close()

    def close(self) -> None:
        """Leave the bar as it is."""
        for bar in (self._evaluation, self._bar):
            if bar is not None:
                bar.close()
        self._bar = self._evaluation = None

    def _figures(self, state) -> str:
        done, left = state.global_step - self._first, state.max_steps - state.global_step
        speed = self.trainer.meter.overall()["tokens_per_second"] if self._speed is None else self._speed
        parts = [f"loss {self._loss:.4g}"] if self._loss is not None else []
        parts += [f"{speed:,.0f} tokens/s"] if speed else []
        seconds = (time.perf_counter() - self.began) / max(done, 1) * left
        return "  ".join([*parts, f"{tqdm.format_interval(seconds)} left"])

    def _print(self, line: str) -> None:
        if self.has_bar:
            print_above(visible(line), sys.stdout)
        else:
            print(visible(line), flush=True)


def _bar(num_steps: int, num_done: int) -> tqdm:
    has_blocks = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return tqdm(
        total=num_steps,
        initial=num_done,
        bar_format=BAR,
        ascii=BLOCKS if has_blocks else "-#",
        colour=None if os.environ.get("NO_COLOR") else "green",
        file=sys.stdout,
        miniters=1,
        **_width(),
    )


def _width() -> dict[str, Any]:
    """Return tqdm's setting for the width: the terminal's, or 80 columns for one that does not know its own."""
    is_known = os.get_terminal_size(sys.stdout.fileno()).columns > 0
    return {"dynamic_ncols": True} if is_known else {"ncols": 80, "nrows": 24}


def evaluated(logs: dict[str, Any], metrics: list[str]) -> list[str]:
    """Return the figures of an evaluation for a person. metrics: those of benchmarks to name."""
    found = [f"loss {logs['eval_loss']:.4g}"] if "eval_loss" in logs else []
    figures = {name.removeprefix("eval_"): logs[name] for name in metrics if name in logs}
    return found + [
        f"{name} {'undefined' if value is None else format(value, '.4g')}" for name, value in figures.items()
    ]
