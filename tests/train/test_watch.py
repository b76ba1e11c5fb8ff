"""Runs with a bad loss stop and name their rows, runs that are asked to stop save, and all write their figures."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import sys
import types

import numpy as np
import paddle
import pytest
import tiny_folder
from paddlenlp.trainer import TrainerCallback
from PIL import Image
from tiny_training import build, differing, settings, train, weights

from paddlemix.commands.train import main
from paddlemix.terminal.interrupts import Preempted
from paddlemix.train import run
from paddlemix.train.results import smoothed
from paddlemix.train.run_folder import last_checkpoint
from paddlemix.train.watch import NUM_NEEDED, LossError, LossWatch


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_folder.write_rows(tmp_path_factory.mktemp("data"))


def watched(folder, losses, max_ratio=10.0):
    watch = LossWatch(folder, max_ratio)
    for step, loss in enumerate(losses, start=1):
        watch.add(loss, [f"a.json, row {step}"], step=step, is_last=True)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_loss_that_is_not_finite_stops_with_the_rows_of_the_step(tmp_path, loss):
    watch = LossWatch(tmp_path, 10.0)
    watch.add(0.5, ["a.json, row 1"], step=1, is_last=True)
    watch.add(0.2, ["a.json, row 2", "a.json, row 3"], step=2, is_last=False)
    with pytest.raises(
        LossError, match=r"before step 2: the loss is (nan|inf).*a\.json, row 2; a\.json, row 3; a.*w 4"
    ):
        watch.add(loss, ["a.json, row 4"], step=2, is_last=True)
    written = json.loads((tmp_path / "bad_step.json").read_text())
    assert written["rows"] == ["a.json, row 2", "a.json, row 3", "a.json, row 4"]
    assert (written["step"], written["losses_before"]) == (2, [0.5])


def test_leap_stops_once_there_are_losses_to_compare_with(tmp_path):
    usual = [2.0] * NUM_NEEDED
    with pytest.raises(LossError, match=r"leapt to 25, from a median of 2"):
        watched(tmp_path, [*usual, 25.0])
    watched(tmp_path, [*usual[:-1], 25.0])  # too few
    watched(tmp_path, [*usual, 19.0])
    watched(tmp_path, [*[0.01] * NUM_NEEDED, 2.9])  # small losses multiply easily
    watched(tmp_path, [*usual, 25.0], max_ratio=0)


def early(folder, losses, max_ratio=10.0, vocab_size=1000):  # guessing costs 6.9
    watch = LossWatch(folder, max_ratio, vocab_size=vocab_size)
    for step, loss in enumerate(losses, start=1):
        watch.add(loss, [f"a.json, row {step}"], step=step, is_last=True)


def test_leap_stops_from_the_first_step_on(tmp_path):
    with pytest.raises(LossError, match=r"before step 1: the first loss is 21, where guessing costs 6\.908.*row 1"):
        early(tmp_path, [21.0])
    with pytest.raises(LossError, match=r"before step 3: the loss leapt to 25, from a median of 3"):
        early(tmp_path, [2.0, 4.0, 25.0])
    with pytest.raises(LossError, match=r"before step 31: the loss leapt to 40"):  # not ten times the median
        early(tmp_path, [*[6.0] * 30, 40.0])
    early(tmp_path, [21.0], max_ratio=0)


@pytest.mark.parametrize(
    "losses",
    [
        [0.01, 9.0, 0.02, 15.0, 1.0],  # batches of one short answer
        [20.0, 20.5, 18.0],  # a new projector
        [20.0, 50.0],  # the next losses are measured from a bad start
        [*[2.0] * 25, 19.0],
        [*[0.01, 0.02, 9.5, 0.1] * 8, 9.9],  # a model that has learned most rows, one row a step
    ],
)
def test_starts_of_usual_runs_are_no_leaps(tmp_path, losses):
    early(tmp_path, losses)


def test_processes_check_their_mean_loss_and_name_the_worst_rows_first(tmp_path, monkeypatch):
    def watch_both(losses):
        monkeypatch.setattr("paddlemix.train.watch.sum_over_processes", lambda values, _: np.array([sum(losses)]))
        monkeypatch.setattr("paddlemix.train.watch.gather", lambda own, _: [own, other])
        watch = LossWatch(tmp_path, 10.0, num_processes=2)
        other = (losses[1], ["b.json, row 1"])
        watch.add(losses[0], ["a.json, row 1"], step=1, is_last=False)
        watch.add(0.0, [], step=1, is_last=True)

    watch_both([1.0, 2.0])
    with pytest.raises(LossError, match=r"the loss is nan.*b\.json, row 1; a\.json, row 1"):
        watch_both([1.0, math.nan])
    with pytest.raises(LossError, match=r"the loss is inf.*a\.json, row 1; b\.json, row 1"):
        watch_both([math.inf, 1.0])


def test_run_with_a_broken_weight_ends_before_the_optimizer_step(tmp_path, data):
    trainer = build(settings(tmp_path, data, max_steps=2))
    norm = trainer.llava.language_model.norm.weight
    norm.set_value(paddle.full_like(norm, float("nan")))
    before = weights(trainer.llava)
    with pytest.raises(LossError, match=r"before step 1: the loss is nan.*row \d+"):
        run.execute(trainer, trainer.args)
    assert not differing(before, weights(trainer.llava))
    assert len(json.loads((tmp_path / "out" / "bad_step.json").read_text())["rows"]) == 2


class Terminate(TrainerCallback):
    """Sends this process SIGTERM in the middle of a step."""

    def __init__(self, step):
        self.step = step

    def on_optimizer_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_saves_a_checkpoint_from_which_the_run_resumes_unchanged(tmp_path, data):
    values = settings(tmp_path, data, max_steps=4, per_device_train_batch_size=1)
    whole = train({**values, "output_dir": str(tmp_path / "whole")})
    trainer = build({**values, "overwrite_output_dir": False})
    trainer.add_callback(Terminate(2))
    with pytest.raises(Preempted, match="by SIGTERM after step 2, with a checkpoint"):
        run.execute(trainer, trainer.args)
    assert last_checkpoint(tmp_path / "out").name == "checkpoint-2"
    assert not (tmp_path / "out" / "config.json").exists()  # a result would make the run look finished
    resumed = train({**values, "overwrite_output_dir": False})
    assert len(resumed.recorder.losses) == 2
    assert not differing(weights(whole.llava), weights(resumed.llava))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_results_record_settings_data_and_versions(tmp_path, data):
    values = settings(tmp_path, {}, dataset={"train": str(data), "eval": str(data)}, do_eval=True, max_steps=3)
    trainer = build(values)
    run.execute(trainer, trainer.args, values)
    results = json.loads((tmp_path / "out" / "train_results.json").read_text())
    assert results["settings"] == values
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    assert results["data"] == [{"file": str(data), "bytes": data.stat().st_size, "sha256": digest}]
    assert results["versions"]["paddlepaddle"] == paddle.__version__
    assert 0 < results["trained_tokens_per_second"] < results["tokens_per_second"]
    assert results["peak_memory_bytes"] > 50e6
    assert "train_loss" in results


def test_tokens_are_counted_as_they_are_trained(tmp_path, data):
    trainer = train(settings(tmp_path, data, max_steps=4, per_device_train_batch_size=2))
    samples = [trainer.train_dataset[row] for row in range(8)]  # four batches of two are all of them
    assert trainer.meter.num_tokens == sum(len(sample.token_ids) for sample in samples)
    assert trainer.meter.num_trained == sum((sample.labels[1:] != -100).sum() for sample in samples)


def test_losses_are_drawn(tmp_path, data):
    train(settings(tmp_path, data, max_steps=3))
    plot = np.asarray(Image.open(tmp_path / "out" / "loss.png").convert("RGB")).reshape([-1, 3])
    assert (plot == (0x1F, 0x5F, 0xA8)).all(axis=1).sum() > 100  # the line


def test_smoothed_losses_start_at_the_first_and_end_near_the_last():
    assert smoothed(np.array([4.0]))[0] == pytest.approx(4.0)
    assert smoothed(np.full(50, 3.0)) == pytest.approx(np.full(50, 3.0))
    assert smoothed(np.array([9.0] + [1.0] * 80))[-1] == pytest.approx(1.0, abs=0.01)


def test_smoothed_losses_of_a_short_run_end_near_its_last():
    assert smoothed(np.array([5.0, 0.4, 0.3, 0.2, 0.1, 0.1]))[-1] == pytest.approx(0.1, abs=0.02)
    assert smoothed(np.array([9.0] + [1.0] * 19))[-1] == pytest.approx(1.0, abs=0.1)


def test_figures_go_to_swanlab_where_it_is_installed(tmp_path, data, monkeypatch):
    calls = []
    service = types.ModuleType("swanlab")
    service.init = lambda **options: calls.append(("init", options))
    service.log = lambda figures, step: calls.append(("log", step, figures))
    service.finish = lambda: calls.append(("finish",))
    monkeypatch.setitem(sys.modules, "swanlab", service)
    train(settings(tmp_path, data, max_steps=2, report_to=["swanlab"]))
    assert calls[0][0] == "init" and calls[0][1]["config"]["learning_rate"] == 1e-3
    logged = [call for call in calls if call[0] == "log" and "loss" in call[2]]
    assert [call[1] for call in logged] == [1, 2] and calls[-1] == ("finish",)


@pytest.mark.parametrize("name", ["swanlab", "wandb", "tensorboard", "visual"])
def test_missing_service_is_one_line(tmp_path, data, monkeypatch, capsys, name):
    for module in ("swanlab", "wandb", "tensorboardX"):
        monkeypatch.setitem(sys.modules, module, None)
    config = tmp_path / "run.json"
    config.write_text(json.dumps(settings(tmp_path, data, max_steps=1, report_to=name)))
    assert main([str(config)], script="sft", template=None) == 1
    assert re.search(rf"error: .*({name}|TensorBoard|Wandb)", capsys.readouterr().err)
