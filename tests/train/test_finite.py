"""Values that are not finite end a run: in its base, losses, gradients and saved weights."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import tiny_folder
from gloo import check_connected, connected
from paddlenlp.trainer import TrainerCallback
from safetensors.numpy import load_file, save_file
from test_data_parallel import free_port
from tiny_training import LORA, build, differing, settings, train, weights

from paddlemix.commands.train import main
from paddlemix.tensor_files.stored import CheckpointError
from paddlemix.train import run
from paddlemix.train.lora import save_adapter
from paddlemix.train.run_folder import last_checkpoint
from paddlemix.train.watch import GradientCheck, LossError, LossWatch, check_weights

NORM, QUERY = "language_model.layers.0.input_layernorm.weight", "language_model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_folder.write_rows(tmp_path_factory.mktemp("data"))


def corrupt(file: Path, name: str, value: float) -> None:
    """Change one element of a tensor in a safetensors file."""
    tensors = {key: tensor.copy() for key, tensor in load_file(file).items()}
    tensors[name].flat[1] = value
    save_file(tensors, file, {"format": "pt"})


def corrupted_base(folder: Path, name: str, value: float) -> Path:
    base = folder / "base"
    shutil.copytree(tiny_folder.folder("pad"), base)
    corrupt(base / "model.safetensors", name, value)
    return base


def error_of(tmp_path, values, capsys) -> str:
    """Run as the scripts do; return its only error line."""
    config = tmp_path / "run.json"
    config.write_text(json.dumps(values))
    assert main([str(config)], script="sft", template=None) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("name", "value", "changes"),
    [
        (NORM, math.nan, {}),
        (QUERY, math.inf, {}),  # softmax on the CPU turns it into finite numbers
        (QUERY, -math.inf, LORA),
        (QUERY, math.nan, {**LORA, "load_in_4bit": True}),
        ("vision_tower.layers.0.fc1.bias", math.nan, LORA),
        (NORM, math.nan, {"do_train": False, "do_eval": True}),
    ],
)
def test_base_with_a_value_that_is_not_finite_is_refused_by_the_tensors_name(
    tmp_path, data, capsys, name, value, changes
):
    base = corrupted_base(tmp_path, name, value)
    both = {"train": str(data), "eval": str(data)}
    changes = {"model_name_or_path": str(base), "dataset": both, **changes}
    error = error_of(tmp_path, settings(tmp_path, data, **changes), capsys)
    assert str(base) in error and name in error and "not finite" in error
    assert not (tmp_path / "out").exists()


def test_adapter_to_continue_from_is_checked_too(tmp_path, data, capsys):
    trainer = train(settings(tmp_path, data, max_steps=1, **LORA))
    adapter = tmp_path / "out"
    name, factor = next(one for one in trainer.model.named_parameters() if one[0].endswith("lora_A"))
    factor.set_value(paddle.full_like(factor, math.nan))
    save_adapter(trainer.model, adapter)
    values = settings(tmp_path / "on", data, lora_path=str(adapter), **LORA)
    (tmp_path / "on").mkdir()
    error = error_of(tmp_path / "on", values, capsys)
    assert str(adapter) in error and name in error


class Corrupt(TrainerCallback):
    """Makes one weight NaN after a step."""

    def __init__(self, parameter, step: int):
        self.parameter = parameter
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.parameter.set_value(paddle.full_like(self.parameter, math.nan))


@pytest.mark.parametrize("changes", [{}, LORA], ids=["full", "lora"])
def test_weights_that_are_not_finite_are_neither_marked_nor_saved(tmp_path, data, changes):
    values = settings(tmp_path, data, max_steps=2, save_strategy="steps", save_steps=1, **changes)
    trainer = build(values)
    projector = trainer.llava.projector[0].weight
    trainer.callback_handler.callbacks.insert(0, Corrupt(projector, 2))
    with pytest.raises(CheckpointError, match=r"not saved: values that are not finite in .*projector\.0\.weight"):
        run.execute(trainer, trainer.args)
    assert last_checkpoint(tmp_path / "out").name == "checkpoint-1"
    assert not (tmp_path / "out" / "config.json").exists()


def test_result_is_not_saved_either(tmp_path, data):
    trainer = build(settings(tmp_path, data, max_steps=1))
    trainer.add_callback(Corrupt(trainer.llava.projector[0].weight, 1))
    with pytest.raises(CheckpointError, match="projector"):
        run.execute(trainer, trainer.args)
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_checkpoint_to_resume_from_is_checked(tmp_path, data):
    values = settings(tmp_path, data, save_strategy="steps", save_steps=1, max_steps=1)
    train(values)
    checkpoint = tmp_path / "out" / "checkpoint-1"
    corrupt(checkpoint / "model.safetensors", NORM, math.nan)
    with pytest.raises(CheckpointError, match=rf"checkpoint-1: .*{re.escape(NORM)}"):
        train({**values, "resume_from_checkpoint": str(checkpoint), "max_steps": 2})


def test_large_finite_weights_are_accepted():
    layer = paddle.nn.Linear(4, 4)
    layer.weight.set_value(paddle.full([4, 4], 3e38))
    check_weights(layer, "large")
    layer.weight.set_value(paddle.full([4, 4], math.inf))
    with pytest.raises(CheckpointError, match=r"large: .*weight"):
        check_weights(layer, "large")


@pytest.mark.parametrize(
    ("factor", "changes"),
    [
        (math.nan, {}),
        (math.inf, {"max_grad_norm": 0.0}),
        (1e25, {}),  # finite, but their norm is not: clipping would set all gradients to zero
        (math.nan, {"recompute": True, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 1}),
        (math.nan, LORA),
    ],
)
def test_gradients_that_are_not_finite_end_the_run_before_the_optimizer_step(tmp_path, data, factor, changes):
    trainer = build(settings(tmp_path, data, max_steps=2, **changes))
    trainer.llava.projector[0].weight.register_hook(lambda gradient: gradient * factor)
    before = weights(trainer.llava)
    with pytest.raises(LossError, match=r"before step 1: its gradients are not finite.*projector\.0\.weight.*row \d"):
        run.execute(trainer, trainer.args)
    assert not differing(before, weights(trainer.llava))
    assert len(json.loads((tmp_path / "out" / "bad_step.json").read_text())["rows"]) == 2


class Scaler:
    """Stands in for paddle.amp.GradScaler, which needs fp16, so that a CPU has none."""

    def __init__(self, scale: float):
        self.scale = scale

    def state_dict(self) -> dict:
        return {"scale": np.array([self.scale], np.float32)}


def test_fp16_loss_scale_may_be_lowered_but_not_below_one(tmp_path):
    layer = paddle.nn.Linear(2, 2)
    (layer(paddle.ones([1, 2])) * math.inf).sum().backward()
    watch = LossWatch(tmp_path, 10.0)
    watch.add(1.0, ["a.json, row 1"], step=1, is_last=True)
    check = GradientCheck(watch)
    state = type("State", (), {"global_step": 0})
    for scale in (2.0**15, 1.0):
        check.on_optimizer_begin(None, state, None, model=layer, scaler=Scaler(scale))
    with pytest.raises(LossError, match="gradients are not finite"):
        check.on_optimizer_begin(None, state, None, model=layer, scaler=Scaler(0.5))


def test_evaluation_loss_that_is_not_finite_is_an_error(tmp_path, data):
    trainer = build(settings(tmp_path, data, dataset={"eval": str(data)}, do_train=False, do_eval=True))
    norm = trainer.llava.language_model.norm.weight
    norm.set_value(paddle.full_like(norm, math.nan))
    with pytest.raises(LossError, match="eval_loss is nan"):
        run.execute(trainer, trainer.args)
    assert not (tmp_path / "out" / "eval_results.json").exists()


DRIVER = """
import os, sys
from paddlemix.commands.train import main
from paddlemix.train.trainer import LlavaTrainer
compute = LlavaTrainer.compute_loss
def corrupted(self, *arguments):
    loss = compute(self, *arguments)
    return loss * float("nan") if os.environ["PADDLE_TRAINER_ID"] == "1" and self.state.global_step == 1 else loss
LlavaTrainer.compute_loss = corrupted
code = main(sys.argv[1:], script="sft", template=None)
print("ended", code, flush=True)
sys.exit(code)
"""


def test_loss_of_one_of_two_processes_ends_both(tmp_path, data):
    (tmp_path / "driver.py").write_text(DRIVER)
    options = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "max_steps": 3}
    (tmp_path / "run.json").write_text(json.dumps(settings(tmp_path, data, **options)))
    environment = {**os.environ, "PADDLEMIX_NUM_THREADS": "1", "PYTHONPATH": str(Path(run.__file__).parents[2])}

    def launched(_: int) -> tuple[int, list[str]]:
        command = [sys.executable, "-m", "paddle.distributed.launch", "--master", f"127.0.0.1:{free_port()}"]
        command += ["--nproc_per_node", "2", "--log_dir", "log", "driver.py", "run.json"]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=600, cwd=tmp_path)
        logs = [(tmp_path / "log" / f"workerlog.{rank}").read_text() for rank in range(2)]
        check_connected(*logs)
        return done.returncode, logs

    code, logs = connected(launched, tmp_path / "log")
    assert code != 0
    for log in logs:
        assert "error: stopped before step 2: the loss is nan" in log and "ended 1" in log
    written = json.loads((tmp_path / "out" / "bad_step.json").read_text())
    assert len(written["rows"]) == 4 and len(written["losses_before"]) == 1


def test_watch_remembers_the_losses_before_a_checkpoint(tmp_path, data):
    values = settings(tmp_path, data, save_strategy="steps", save_steps=2)
    whole = train(values)
    resumed = build({**values, "resume_from_checkpoint": str(tmp_path / "out" / "checkpoint-2")})
    run.execute(resumed, resumed.args)
    assert len(whole.watch.losses) == 4 and resumed.watch.losses == whole.watch.losses
