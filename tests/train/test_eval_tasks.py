"""Benchmarks that a run answers at each evaluation: their figures, and training that goes on as without them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
import tiny_folder
from tiny_training import LORA, build, differing, settings, train, weights

from paddlemix import LlavaForConditionalGeneration, LlavaProcessor
from paddlemix.evaluate.runner import Decoding, ask_all
from paddlemix.evaluate.tasks import task_of
from paddlemix.evaluate.tasks.task import load
from paddlemix.train.eval_tasks import EvalTask
from paddlemix.train.run_folder import COMPLETE

SCRIPT = Path(__file__).parents[2] / "paddlemix/examples/llava/supervised_finetune.py"
NUM_QUESTIONS = 5
PATTERNS = ("[a-z]", "q{9}")  # the untrained model's answers have letters, and so every second one is right
EVALUATED = {"evaluation_strategy": "steps", "eval_steps": 2, "do_train": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows to train on, and questions of one's own about their images, in files with and without damage."""
    folder = tmp_path_factory.mktemp("data")
    tiny_folder.write_rows(folder)
    rows = [
        {"id": f"q{number}", "question": f"What colour is shape {number}?", "answer": PATTERNS[number % 2]}
        for number in range(NUM_QUESTIONS)
    ]
    for number in (1, 2, 3):
        rows[number]["image"] = f"{number}-0.png"
    write_lines(folder / "questions.jsonl", rows)
    write_lines(folder / "damaged.jsonl", [*rows, {"id": "bad", "question": "?", "image": "absent.png"}])
    write_lines(folder / "unknown.jsonl", [{"id": "q", "question": "What?"}])
    return folder


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def entry(folder: Path, **changes) -> dict:
    return {"task": "custom", "data_dir": str(folder / "questions.jsonl"), "name": "shapes", "rule": "regex", **changes}


def values_of(out: Path, folder: Path, *entries: dict, has_rows: bool = False, **changes) -> dict:
    """Return the settings of a run that answers tasks every second step. has_rows: it has an evaluation loss, too."""
    rows = str(folder / "train.json")
    dataset = {"train": rows, "eval": rows} if has_rows else {"train": rows}
    tasks = {"eval_tasks": list(entries)} if entries else {}
    return settings(out, None, dataset=dataset, **{**EVALUATED, **tasks, **changes})


def lines_of(out: Path, name: str = "shapes") -> list[dict]:
    return [json.loads(line) for line in (out / f"out/eval_tasks/{name}.jsonl").read_text().splitlines()]


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def expected_answers(model_folder: Path, folder: Path, max_new_tokens: int = 128, **loading) -> dict[str, str]:
    """Return the answers of a saved model to the questions, by id."""
    model = LlavaForConditionalGeneration.from_pretrained(model_folder, **loading)
    questions = load(task_of("custom"), folder / "questions.jsonl").questions
    asked = ask_all(model, LlavaProcessor.from_pretrained(model_folder), questions, Decoding(max_new_tokens))
    return {question.id: saved.output for question, saved in asked}


@pytest.mark.parametrize("has_rows", [False, True], ids=["alone", "beside an eval split"])
def test_figures_are_in_the_log_the_results_and_the_history(folder, tmp_path, has_rows):
    trainer = train(values_of(tmp_path, folder, entry(folder), has_rows=has_rows, per_device_eval_batch_size=3))
    out = tmp_path / "out"
    credits = [line["credit"] for line in lines_of(tmp_path)]
    figure = sum(credits) / NUM_QUESTIONS
    assert [line["id"] for line in lines_of(tmp_path)] == [f"q{number}" for number in range(NUM_QUESTIONS)]
    assert {line["step"] for line in lines_of(tmp_path)} == {4} and 0 < figure < 1
    for name in ("eval_results.json", "all_results.json", "train_results.json"):
        assert read(out / name)["eval_shapes"] == pytest.approx(figure)
    assert [step for step, _ in trainer.history.values["eval_shapes"]] == [2, 4, 4]
    assert ("eval_loss" in trainer.history.values) == has_rows
    assert ("eval_loss" in read(out / "eval_results.json")) == has_rows
    answers = {line["id"]: line["output"] for line in lines_of(tmp_path)}
    assert answers == expected_answers(out, folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"neftune": True},
        {**LORA, "lora_dropout": 0.3},
        {**LORA, "lora_dropout": 0.3, "load_in_4bit": True},
        {"packing": True, "max_length": 500},
    ],
    ids=["full", "lora", "lora over nf4", "packed"],
)
def test_training_goes_on_bit_for_bit_as_without_tasks(folder, tmp_path, changes):
    without = {**changes, "evaluation_strategy": "no"}
    plain = train(values_of(tmp_path / "plain", folder, **without))
    tasks = values_of(tmp_path / "tasks", folder, entry(folder), **changes, eval_steps=1)
    evaluated = train(tasks)
    assert evaluated.recorder.losses == plain.recorder.losses and len(plain.recorder.losses) == 4
    assert not differing(weights(plain.llava), weights(evaluated.llava))
    assert len(evaluated.history.values["eval_shapes"]) == 5


def test_evaluation_leaves_random_states_and_training_mode(folder, tmp_path):
    trainer = build(values_of(tmp_path, folder, entry(folder)))
    trainer.llava.train()
    drawn = []
    for evaluate in (lambda: None, trainer.evaluate):
        paddle.seed(3)
        np.random.seed(3)
        evaluate()
        drawn.append((paddle.rand([4]).tolist(), np.random.rand(4).tolist()))
    assert drawn[0] == drawn[1] and trainer.llava.training


@pytest.mark.parametrize("loading", [{}, {"load_in_4bit": True}], ids=["lora", "lora over nf4"])
def test_adapters_answer_as_their_folder_does_when_it_is_loaded(folder, tmp_path, loading):
    train(values_of(tmp_path, folder, entry(folder), **LORA, **loading, max_steps=2, learning_rate=0.02))
    answers = {line["id"]: line["output"] for line in lines_of(tmp_path)}
    assert answers == expected_answers(tmp_path / "out", folder, **loading)
    assert answers != expected_answers(tiny_folder.folder("pad"), folder)


def scripted(monkeypatch, *values: float | None) -> None:
    """Let the evaluations of a run find these values of the main metric."""
    left = list(values)
    monkeypatch.setattr(EvalTask, "metrics", lambda task, scores: {task.main: left.pop(0)})


BEST = {
    "eval_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "shapes",
}


@pytest.mark.parametrize("metric", ["shapes", "eval_shapes"])
def test_a_task_may_choose_the_best_model(folder, tmp_path, monkeypatch, metric):
    scripted(monkeypatch, 0.2, 0.75, None, 0.5, 0.75)
    trainer = train(values_of(tmp_path, folder, entry(folder), **{**BEST, "metric_for_best_model": metric}))
    assert trainer.state.best_metric == 0.75 and trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    assert not differing(weights(trainer.llava), trainer.recorder.saved[2])
    assert trainer.history.values["eval_shapes"] == [(1, 0.2), (2, 0.75), (4, 0.5), (4, 0.75)]
    assert read(tmp_path / "out/eval_results.json")["eval_shapes"] == 0.75


def test_a_figure_that_is_not_defined_is_null_in_the_results(folder, tmp_path, monkeypatch):
    scripted(monkeypatch, None, None)
    train(values_of(tmp_path, folder, entry(folder), max_steps=2))
    assert read(tmp_path / "out/eval_results.json")["eval_shapes"] is None
    assert read(tmp_path / "out/train_results.json")["eval_shapes"] is None


def test_the_loss_may_choose_the_best_model_beside_tasks(folder, tmp_path):
    values = values_of(tmp_path, folder, entry(folder), has_rows=True, **{**BEST, "metric_for_best_model": "loss"})
    trainer = train(values)
    assert trainer.state.best_metric == min(trainer.recorder.eval_losses)


def test_a_resumed_run_has_the_figures_of_an_uninterrupted_one(folder, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 5, "learning_rate": 0.01}
    values = values_of(tmp_path / "whole", folder, entry(folder), **saving)
    whole = train(values)
    for step in (1, 2, 3, 5):
        rest = tmp_path / f"rest-{step}"
        shutil.copytree(tmp_path / f"whole/out/checkpoint-{step}", rest / f"out/checkpoint-{step}")
        again = train({**values, "output_dir": str(rest / "out"), "overwrite_output_dir": False})
        assert again.history.values == whole.history.values
        assert lines_of(rest) == lines_of(tmp_path / "whole")
        for name in ("train_results.json", "eval_results.json"):
            before, after = (read(one / "out" / name) for one in (tmp_path / "whole", rest))
            assert after["eval_shapes"] == before["eval_shapes"]
        assert (rest / "out/loss.png").read_bytes() == (tmp_path / "whole/out/loss.png").read_bytes()


def test_a_run_that_was_killed_in_its_last_evaluation_is_evaluated(folder, tmp_path):
    values = {**values_of(tmp_path, folder, entry(folder)), "overwrite_output_dir": False}
    values |= {"save_strategy": "steps", "save_steps": 4, "eval_steps": 3}
    train(values)
    names = ("eval_results.json", "eval_tasks/shapes.jsonl", "train_results.json", "loss.png")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in names}
    for name in ("eval_results.json", "loss.png", "eval_tasks/shapes.jsonl"):
        (tmp_path / "out" / name).unlink()
    train(values)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in names} == before


def test_evaluation_alone_answers_tasks_without_rows(folder, tmp_path):
    values = values_of(tmp_path, folder, entry(folder), do_train=False, do_eval=True, evaluation_strategy="no")
    del values["dataset"]
    trainer = train(values)
    start = LlavaForConditionalGeneration.from_pretrained(tiny_folder.folder("pad"))
    assert not differing(weights(trainer.llava), weights(start))
    answers = {line["id"]: line["output"] for line in lines_of(tmp_path)}
    assert answers == expected_answers(tiny_folder.folder("pad"), folder)
    assert {line["step"] for line in lines_of(tmp_path)} == {0}
    assert "eval_shapes" in read(tmp_path / "out/eval_results.json")


def test_several_tasks_have_their_own_figures_and_files(folder, tmp_path):
    tasks = [entry(folder), entry(folder, name="few", rule="contains", limit=2, max_new_tokens=3)]
    train(values_of(tmp_path, folder, *tasks, max_steps=2))
    found = read(tmp_path / "out/eval_results.json")
    assert {"eval_shapes", "eval_few"} <= set(found)
    few = {line["id"]: line["output"] for line in lines_of(tmp_path, "few")}
    expected = expected_answers(tmp_path / "out", folder, max_new_tokens=3)
    assert few == {name: expected[name] for name in ("q0", "q1")}
    assert {path.name for path in (tmp_path / "out/eval_tasks").iterdir()} == {"shapes.jsonl", "few.jsonl"}


def test_a_killed_and_resumed_run_ends_as_an_uninterrupted_one(folder, tmp_path):
    """The process is killed by SIGKILL after its second checkpoint, while it trains or answers."""
    saving = {"save_strategy": "steps", "save_steps": 1, "eval_steps": 1, "max_steps": 6, "learning_rate": 0.01}
    whole = train(values_of(tmp_path / "whole", folder, entry(folder), **saving))
    rest = tmp_path / "rest"
    rest.mkdir()
    values = {**values_of(rest, folder, entry(folder), **saving), "overwrite_output_dir": False}
    (rest / "run.json").write_text(json.dumps(values))
    command = [sys.executable, str(SCRIPT), str(rest / "run.json")]
    killed = subprocess.Popen(command, cwd=rest, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while killed.poll() is None and not (rest / f"out/checkpoint-2/{COMPLETE}").is_file():
        time.sleep(0.02)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    again = train(values)
    assert 0 < len(again.recorder.losses) <= 4
    assert again.history.values == whole.history.values
    assert lines_of(rest) == lines_of(tmp_path / "whole")
    assert read(rest / "out/train_results.json")["eval_shapes"] == whole.task_metrics["eval_shapes"]
