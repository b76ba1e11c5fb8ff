"""The setting eval_tasks is checked before the first step, and its files keep to the rules of a run's folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import tiny_folder
from benchmark_files import write_lines
from PIL import Image
from tiny_training import settings, train

from paddlemix import cli
from paddlemix.doctor.check import FAILED, WARNING
from paddlemix.doctor.run_checks import diagnose
from paddlemix.evaluate.item import ImageFile
from paddlemix.train.arguments import parse
from paddlemix.train.config_file import read_values
from paddlemix.train.eval_tasks import EvalTask, load_tasks, parse_tasks
from paddlemix.train.results import draw_losses
from paddlemix.train.run_folder import CheckpointError, claim_folder
from paddlemix.train.sharding import check_parallel

BEST = {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 2, "eval_steps": 2}


@pytest.fixture
def folder(tmp_path):
    """Questions of one's own, good and bad ones, and rows to train on."""
    tiny_folder.write_rows(tmp_path)
    row = {"question": "What colour is it?", "answer": "red", "image": "0.png"}
    tiny_folder.save_image(tmp_path / "images/0.png", 0)
    write_lines(tmp_path / "questions.jsonl", [{"id": name, **row} for name in "abc"])
    write_lines(tmp_path / "damaged.jsonl", [row, {**row, "image": "absent.png"}, {"question": "?"}])
    write_lines(tmp_path / "unknown.jsonl", [{"question": "Why?"}])
    write_lines(tmp_path / "patterns.jsonl", [{"question": "Why?", "answer": "("}])
    return tmp_path


def entry(folder, **changes) -> dict:
    return {"task": "custom", "data_dir": str(folder / "questions.jsonl"), **changes}


def values_of(folder, *entries: dict, **changes) -> dict:
    tasks = {"eval_tasks": list(entries), "evaluation_strategy": "steps", "eval_steps": 2}
    return settings(folder, folder / "train.json", **{**tasks, **changes})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"task": "costum"}, r"unknown task 'costum': did you mean 'custom'"),
        ({"task": 3}, "task is 3, expected a string"),
        ({"task": None}, "'task' is missing"),
        ({"data_dir": ""}, "'data_dir' is missing: expected the folder"),
        ({"max_tokens": 3}, r"unknown key 'max_tokens', did you mean 'max_new_tokens'\?; known are task, "),
        ({"limit": 0}, "limit is 0, expected a whole number from 1"),
        ({"limit": True}, "limit is True"),
        ({"max_new_tokens": "8"}, "max_new_tokens is '8'"),
        ({"name": "../x"}, r"name is '\.\./x', expected at most 64 letters"),
        ({"rule": "exakt"}, "custom has no rule 'exakt': it has exact, "),
        ({"style": "lmms"}, "custom has no prompt style 'lmms'; it has llava"),
        ({"task": "mmvet"}, "a judge model reads the answers to mmvet"),
    ],
)
def test_a_mistake_in_an_entry_is_one_error_before_any_file_is_read(folder, changes, text):
    with pytest.raises(ValueError, match=f"^eval_tasks, entry 1: .*{text}"):
        parse(values_of(folder, {**entry(folder), **changes}))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"eval_tasks": "custom"}, r"eval_tasks is 'custom': expected a list of objects"),
        ({"evaluation_strategy": "no"}, "this run has none: set evaluation_strategy"),
        ({"num_eval_answers": 2}, "num_eval_answers needs rows"),
        ({**BEST, "metric_for_best_model": "digits"}, "is 'digits', expected 'loss' or 'eval_loss' or 'custom'"),
    ],
)
def test_settings_that_do_not_go_with_tasks_are_refused(folder, changes, text):
    with pytest.raises(ValueError, match=text):
        parse(values_of(folder, entry(folder), **changes))


def test_two_entries_need_two_names(folder):
    with pytest.raises(ValueError, match="entry 2: the name 'CUSTOM' occurs before"):
        parse(values_of(folder, entry(folder), entry(folder, name="CUSTOM")))
    assert [one.name for one in parse_tasks([entry(folder), entry(folder, name="b")])] == ["custom", "b"]


def test_tasks_are_read_from_a_flag(folder):
    words = [f"--eval_tasks={json.dumps([entry(folder, limit=2)])}", "--evaluation_strategy", "epoch"]
    data = parse(read_values([*words, "--output_dir", str(folder / "out")])).data
    assert data.eval_tasks == [entry(folder, limit=2)]


def test_sliced_weights_cannot_answer():
    with pytest.raises(ValueError, match="eval_tasks needs whole weights in a process: take sharding stage2"):
        check_parallel({"sharding": "stage3", "device": "npu", "eval_tasks": [{}]}, 2)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"data_dir": "absent.jsonl"}, r"eval_tasks 'custom': data_dir not found: /"),
        (
            {"data_dir": "unknown.jsonl"},
            "none of its questions can be scored: their right answers are not in the files",
        ),
        ({"data_dir": "patterns.jsonl", "rule": "regex"}, r"'\(' is not a regular expression"),
        ({"name": "loss"}, "eval_loss is a metric of every evaluation"),
        ({"name": "skipped_rows"}, "eval_skipped_rows is a metric"),
        ({"name": "of_mem_x"}, "reads like one"),
    ],
)
def test_files_and_metrics_are_checked_before_the_model_is_loaded(folder, monkeypatch, changes, text):
    monkeypatch.setattr("paddlemix.train.run.load_model", None)
    changes = {**changes, "data_dir": str(folder / changes.get("data_dir", "questions.jsonl"))}
    with pytest.raises(ValueError, match=text):
        train(values_of(folder, entry(folder, **changes)))


def test_a_path_beside_the_configuration_is_hinted_at(folder):
    with pytest.raises(ValueError, match=r"it exists as .*questions\.jsonl: paths are relative to the current"):
        load_tasks([{"task": "custom", "data_dir": "questions.jsonl"}], folder)


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (None, r"'loss' \(it is the default of load_best_model_at_end\): expected one of eval_custom$"),
        ("custom_f1", "'custom_f1': expected one of eval_custom$"),
    ],
)
def test_a_best_metric_that_no_evaluation_has_is_refused_before_the_model_is_loaded(folder, monkeypatch, metric, text):
    monkeypatch.setattr("paddlemix.train.run.load_model", None)
    metrics = {} if metric is None else {"metric_for_best_model": metric}
    with pytest.raises(ValueError, match=text):
        train(values_of(folder, entry(folder), **BEST, **metrics))


def test_damaged_rows_are_counted_and_named(folder, capsys):
    (task,) = load_tasks([entry(folder, data_dir=str(folder / "damaged.jsonl"), name="few", limit=1)], None)
    text = task.summary()
    assert text.startswith("custom, 1 of 3 questions, prompts llava, rule exact, up to 128 tokens; 2 problems: ")
    assert "damaged.jsonl line 2" in text and "its right answer is not in the files" in text


def test_figures_have_names_without_categories(folder):
    rows = [{"question_id": n, "image": "0.png", "text": "Is it?", "label": "yes"} for n in (1, 2)]
    for category in ("adversarial", "popular", "random"):
        write_lines(folder / f"coco/coco_pope_{category}.json", rows)
    (task,) = load_tasks([{"task": "pope", "data_dir": str(folder)}], None)
    assert task.main == "eval_pope" and task.figures["f1"] == "eval_pope"
    assert all("/" not in figure for figure in task.figures)


def test_doctor_and_inspect_data_show_the_tasks(folder, capsys, monkeypatch):
    monkeypatch.setattr(cli, "prepare_environment", lambda device: {})
    values = values_of(folder, entry(folder, limit=2), entry(folder, name="b", data_dir=str(folder / "damaged.jsonl")))
    checks = {one.name: one for one in diagnose(values, template=None, config_folder=None, is_tried=False).checks}
    assert checks["data"].status == WARNING
    assert any(fact.startswith("eval_tasks custom: 2 of 3 questions") for fact in checks["data"].facts)
    assert checks["data"].values["eval_tasks b"]["num_asked"] == 1
    (folder / "run.json").write_text(json.dumps(values))
    assert cli.main(["inspect-data", str(folder / "run.json"), "--workers", "1"]) == 0
    assert "task custom" in capsys.readouterr().out
    assert cli.main(["inspect-data", str(folder / "run.json"), "--workers", "1", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["eval_tasks"]] == ["custom", "b"]
    missing = {**values, "eval_tasks": [entry(folder, data_dir=str(folder / "absent"))]}
    checks = {one.name: one for one in diagnose(missing, template=None, config_folder=None, is_tried=False).checks}
    assert checks["data"].status == FAILED and "data_dir not found" in checks["data"].facts[-1]


def test_doctor_accepts_a_run_that_only_answers_tasks(folder):
    values = values_of(folder, entry(folder), do_train=False, do_eval=True)
    del values["dataset"]
    checks = {one.name: one for one in diagnose(values, template=None, config_folder=None).checks}
    assert not [one.name for one in checks.values() if one.status == FAILED]


def test_another_best_metric_or_other_questions_for_it_do_not_resume(folder, monkeypatch):
    best = {**BEST, "metric_for_best_model": "custom", "max_steps": 2, "overwrite_output_dir": False}
    train(values_of(folder, entry(folder), **best))
    shutil.rmtree(folder / "out/eval_tasks")
    changes = {**best, "max_steps": 4}
    with pytest.raises(
        ValueError, match="metric_for_best_model was eval_custom, and is another one with the same name"
    ):
        train(values_of(folder, entry(folder, limit=2), **changes))
    with pytest.raises(ValueError, match="metric_for_best_model was eval_custom, and is none"):
        train(
            values_of(
                folder, entry(folder), **{**changes, "load_best_model_at_end": False, "metric_for_best_model": None}
            )
        )
    assert train(values_of(folder, entry(folder), **changes)).state.global_step == 4


def test_a_new_run_removes_the_answers_of_an_earlier_one_and_no_other_files(folder):
    train(values_of(folder, entry(folder, name="a"), entry(folder, name="b"), max_steps=2))
    (folder / "out/eval_tasks/mine.jsonl").write_text('{"id": 1, "question": "mine"}\n')
    (folder / "out/eval_tasks/.b.jsonl.abcd1234.tmp").write_text("half")
    train(values_of(folder, entry(folder, name="b", limit=1), max_steps=2))
    names = sorted(path.name for path in (folder / "out/eval_tasks").iterdir())
    assert names == ["b.jsonl", "mine.jsonl"]
    assert len((folder / "out/eval_tasks/b.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("name", ["eval_tasks", "eval_tasks/a.jsonl"])
def test_links_at_the_place_of_answers_are_refused_at_the_start(tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "elsewhere")
    with (
        pytest.raises(CheckpointError, match=r"this run will write there"),
        claim_folder(tmp_path / "out", [], is_overwriting=True),
    ):
        pytest.fail("a run that could not write its answers")
    assert not (tmp_path / "elsewhere").exists()


def test_a_question_that_cannot_be_asked_is_named_and_in_no_figure(folder, caplog, monkeypatch):
    train_values = values_of(folder, entry(folder, rule="regex"), max_steps=2)
    load = load_tasks
    monkeypatch.setattr(
        "paddlemix.train.data_sets.load_tasks", lambda *options: _with_bad_image(folder, load(*options))
    )
    train(train_values)
    lines = [json.loads(line) for line in (folder / "out/eval_tasks/custom.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines if line["output"] is None] == ["a"]
    assert any("eval_tasks custom: not in the figures: 1 problem: custom (a)" in text for text in caplog.messages)


def _with_bad_image(folder, tasks: tuple[EvalTask, ...]) -> tuple[EvalTask, ...]:
    """Break the image of the first question after the files were read."""
    (folder / "images/broken.png").write_bytes(b"not an image")
    first, *others = tasks[0].loaded.questions
    first = replace(first, images=(ImageFile(folder / "images/broken.png"),))
    return (replace(tasks[0], loaded=replace(tasks[0].loaded, questions=(first, *others))),)


def test_plot_has_a_panel_for_fractions_and_one_for_each_other_scale(tmp_path):
    steps = range(1, 5)
    losses = {"loss": [(step, 3.0 / step) for step in steps]}
    metrics = {"eval_a": [(4, 0.5)], "eval_b": [(2, 0.25), (4, 1.0)], "eval_c": [(4, 900.0)], "eval_d": []}
    heights = []
    for names in ([], ["eval_a"], ["eval_a", "eval_b", "eval_d"], list(metrics)):
        draw_losses(tmp_path, {**losses, **metrics}, names)
        heights.append(Image.open(tmp_path / "loss.png").size[1] / 120)
    assert heights == [4.5, 7.0, 7.0, 9.5]
    (tmp_path / "loss.png").unlink()
    draw_losses(tmp_path, metrics, list(metrics))  # without a training loss nothing was trained
    assert not (tmp_path / "loss.png").exists()
