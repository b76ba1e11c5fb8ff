"""Train tiny models inside the test process, with the code that the scripts use."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import tiny_folder
from paddlenlp.trainer import TrainerCallback

from paddlemix.train import run

PRETRAIN_FREEZE = {"freeze_include": ["*llama*", "*lm_head*"], "freeze_exclude": ["*llama.mm_projector*"]}
LORA = {
    "lora": True,
    "lora_rank": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "lora_target_modules": [f"llama.layer.*{name}_proj.*" for name in ("q", "k", "v", "o", "gate", "up", "down")],
}


class Recorder(TrainerCallback):
    """Records what a trainer logs, and the weights at every step at which it saves."""

    def __init__(self, trainer):
        self.trainer = trainer
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.eval_losses: list[float] = []
        self.saved: dict[int, dict] = {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        for key, seen in (("loss", self.losses), ("learning_rate", self.rates), ("eval_loss", self.eval_losses)):
            seen += [logs[key]] if key in logs else []

    def on_save(self, args, state, control, **kwargs):
        self.saved[state.global_step] = weights(self.trainer.llava)


def settings(folder: Path, data: Path | dict, mode: str = "pad", **changes) -> dict:
    """Return the values of a run with a constant rate, four steps and batches of two; output_dir is folder/out."""
    values = {
        "model_name_or_path": str(tiny_folder.folder(mode)),
        "dataset": data if isinstance(data, dict) else str(data),
        "output_dir": str(folder / "out"),
        "overwrite_output_dir": True,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "max_steps": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "do_train": True,
        "disable_tqdm": True,
        "report_to": "none",
        "device": "cpu",
    }
    return {**values, **changes}


def build(values: dict, template: str | None = None):
    """Return the trainer of a run that is ready to start."""
    made = []
    with mock.patch.object(run, "execute", lambda trainer, args, values, begin: made.append(trainer)):
        run.train(values, template=template, config_folder=None)
    trainer = made[0]
    trainer.recorder = Recorder(trainer)
    trainer.add_callback(trainer.recorder)
    return trainer


def train(values: dict, template: str | None = None):
    """Train to the end, saving included; return the trainer."""
    trainer = build(values, template)
    run.execute(trainer, trainer.args)
    return trainer


def weights(model) -> dict:
    """Return copies of all parameters as arrays, by name."""
    return {name: parameter.numpy().copy() for name, parameter in model.named_parameters()}


def differing(first: dict, second: dict) -> set[str]:
    """Return the names of the parameters that are not bit-equal."""
    assert set(first) == set(second)
    return {name for name in first if first[name].tobytes() != second[name].tobytes()}
