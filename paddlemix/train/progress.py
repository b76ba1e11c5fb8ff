"""What a person sees of a run: a bar with the loss, the speed and the time left."""

from __future__ import annotations

from paddlenlp.trainer import ProgressCallback, TrainerCallback

SHOWN = {"loss": "loss", "tokens_per_second": "tok/s", "trained_tokens_per_second": "trained/s", "eval_loss": "eval"}


class Progress(ProgressCallback):
    """paddlenlp's bar, with the latest figures behind it; the log lines stay as they are."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_local_process_zero and self.training_bar is not None and logs:
            figures = {short: f"{logs[name]:.4g}" for name, short in SHOWN.items() if name in logs}
            self.training_bar.set_postfix(figures, refresh=False)
        super().on_log(args, state, control, logs=logs, **kwargs)


class History(TrainerCallback):
    """Keeps (step, value) of what is logged."""

    def __init__(self):
        self.values: dict[str, list[tuple[int, float]]] = {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name in ("loss", "eval_loss"):
            if logs and name in logs:
                self.values.setdefault(name, []).append((state.global_step, float(logs[name])))
