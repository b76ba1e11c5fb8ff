"""Two processes train as one does with the same global batch, and only the first one writes.

All runs of two processes that end well share them, because starting takes most of the time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_folder
from gloo import check_connected, connected
from several_nodes import free_port
from tiny_training import LORA, settings, weights

from paddlemix import LlavaForConditionalGeneration
from paddlemix.commands.train import main
from paddlemix.train.run_folder import last_checkpoint

SCRIPT = Path(__file__).parents[2] / "paddlemix/examples/llava/supervised_finetune.py"
IN_TURN = Path(__file__).parent / "configs_in_turn.py"
STEPS = {"max_steps": 3, "max_grad_norm": 1.0, "adam_epsilon": 0.01, "save_strategy": "steps", "save_steps": 2}
PACKED_NF4 = {**LORA, "load_in_4bit": True, "mixtoken": True, "max_length": 500}
STAGE1 = {"sharding": "stage1"}
SMALL = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
TASK = {"task": "custom", "rule": "regex", "max_new_tokens": 24}
KINDS = {"data parallel": {}, "sharding stage 1": STAGE1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight rows with none to three images: in some steps one process has no image."""
    return tiny_folder.write_rows(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> dict:
    """Five questions for two processes, and one question, of which one process has none."""
    rows = [{"question": f"What colour is shape {number}?", "answer": "(?i)e"} for number in range(5)]
    questions = tmp_path_factory.mktemp("tasks") / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {**TASK, "data_dir": str(questions)}
    evaluated = [{**task, "name": "five"}, {**task, "name": "one", "limit": 1}]
    return {"eval_tasks": evaluated, "evaluation_strategy": "steps", "eval_steps": 2}


@pytest.fixture(scope="module")
def one(tmp_path_factory, data, tasks):
    """Return a function from a kind of run to the output folder of one process."""
    root = tmp_path_factory.mktemp("one")
    kinds = {"whole": {"per_device_train_batch_size": 4}, "packed": {"per_device_train_batch_size": 2, **PACKED_NF4}}
    kinds["tasks"] = {"per_device_train_batch_size": 4, **tasks}
    for kind, changes in kinds.items():
        assert main([str(configured(root / kind, data, **changes))], script="sft", template=None) == 0
    return lambda kind: root / kind / "out"


@pytest.fixture(scope="module")
def two(tmp_path_factory, data, tasks):
    """Return a function from a kind of run to the output folder of two processes, and what all of them printed."""
    root = tmp_path_factory.mktemp("two")
    answering = {"per_device_train_batch_size": 2, **STAGE1, **tasks}
    kinds = {
        "sharding stage 1": {**SMALL, **STAGE1},
        "tasks": answering,
        "resumed": {**answering, "resume_from_checkpoint": str(root / "tasks/out/checkpoint-2")},
        "data parallel": SMALL,
        "packed": {"per_device_train_batch_size": 1, **PACKED_NF4},
    }
    configs = [configured(root / kind, data, **changes) for kind, changes in kinds.items()]
    done, logs = launched(root, IN_TURN, *configs)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:] + "".join(log[-3000:] for log in logs)
    printed = done.stdout + done.stderr
    assert printed.count("train: 8 rows") == len(kinds)  # the second process writes only to its own log
    return lambda kind: root / kind / "out"


def configured(folder: Path, data: Path, **changes) -> Path:
    """Write the configuration of a run to a new folder."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**settings(folder, data, "anyres"), **STEPS, **changes}))
    return folder / "config.json"


def launched(folder: Path, script: Path, *configs: Path) -> tuple[subprocess.CompletedProcess, list[str]]:
    """Run a script in two processes to its end; return its result and the log of each process."""
    return connected(lambda _: launched_once(folder, script, *configs), folder / "log")


def launched_once(folder: Path, script: Path, *configs: Path) -> tuple[subprocess.CompletedProcess, list[str]]:
    command = [sys.executable, "-m", "paddle.distributed.launch", "--master", f"127.0.0.1:{free_port()}"]
    command += ["--nproc_per_node", "2", "--log_dir", str(folder / "log"), str(script), *map(str, configs)]
    environment = {**os.environ, "PADDLEMIX_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, cwd=folder)
    logs = [log.read_text() for log in sorted(folder.glob("log/workerlog.*"))]
    check_connected(done.stdout, *logs)
    return done, logs


def losses(output: Path) -> list[float]:
    logged = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in logged if "loss" in entry]


def assert_same_training(one: Path, two: Path) -> None:
    start = weights(LlavaForConditionalGeneration.from_pretrained(tiny_folder.folder("anyres")))
    first, second = (weights(LlavaForConditionalGeneration.from_pretrained(path)) for path in (one, two))
    moved = max(np.abs(first[name] - start[name]).max() for name in start)
    assert moved > 1e-4
    assert max(np.abs(first[name] - second[name]).max() for name in start) < 1e-5
    assert losses(one) == pytest.approx(losses(two), abs=1e-5)
    assert len(losses(one)) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_as_one_with_the_same_global_batch(one, two, kind):
    assert_same_training(one("whole"), two(kind))
    assert last_checkpoint(two(kind)).name == "checkpoint-2"


def test_two_processes_that_share_a_decoder_train_as_one_does(tmp_path, data, one):
    """Fleet makes its groups once for a process, so that this run has its own two."""
    config = configured(tmp_path / "shared", data, per_device_train_batch_size=4, tensor_parallel_degree=2)
    done, logs = launched(tmp_path, SCRIPT, config)
    assert done.returncode == 0, done.stdout[-3000:] + "".join(log[-3000:] for log in logs)
    assert_same_training(one("whole"), tmp_path / "shared/out")


def test_a_payload_in_the_file_of_one_process_ends_both(tmp_path, data, two):
    """The second process alone reads the file; the first one must not wait for it."""
    config = configured(tmp_path / "rest", data, **SMALL, **STAGE1, overwrite_output_dir=False)
    shutil.copytree(two("sharding stage 1") / "checkpoint-2", tmp_path / "rest/out/checkpoint-2")
    bad = tmp_path / "rest/out/checkpoint-2/optimizer.shard01.pdopt"
    bad.write_bytes(b"\x80\x02cposix\nsystem\nX\x09\x00\x00\x00touch ran\x85R.")
    done, logs = launched(tmp_path, SCRIPT, config)
    assert done.returncode != 0 and not (tmp_path / "ran").exists()
    assert all(f"error: {bad} is refused: it refers to posix.system" in log for log in logs)
    assert all("Traceback" not in log for log in logs)


def test_lora_over_nf4_and_packing_in_two_processes_train_as_in_one(one, two):
    first, second = (
        weights(LlavaForConditionalGeneration.from_pretrained(run("packed"), base=tiny_folder.folder("anyres")))
        for run in (one, two)
    )
    assert max(np.abs(first[name] - second[name]).max() for name in first) < 1e-5
    assert losses(one("packed")) == pytest.approx(losses(two("packed")), abs=1e-5)
    assert len(losses(one("packed"))) == 3


def test_two_processes_answer_tasks_as_one_does_and_so_do_resumed_ones(one, two):
    for name in ("eval_tasks/five.jsonl", "eval_tasks/one.jsonl"):
        assert (two("tasks") / name).read_bytes() == (one("tasks") / name).read_bytes()
    first, second = (json.loads((run("tasks") / "eval_results.json").read_text()) for run in (one, two))
    assert {name: first[name] for name in ("eval_five", "eval_one")}.items() <= second.items()
    assert losses(one("tasks")) == pytest.approx(losses(two("tasks")), abs=1e-5)
    assert len(losses(one("tasks"))) == 3
    assert losses(two("resumed")) == losses(two("tasks"))
    assert (two("resumed") / "eval_tasks/five.jsonl").read_bytes() == (
        two("tasks") / "eval_tasks/five.jsonl"
    ).read_bytes()


def test_a_folder_with_other_files_ends_both_processes(tmp_path, data):
    """Only the first process looks at it: the second one would find what the first is writing."""
    config = configured(tmp_path / "run", data, per_device_train_batch_size=1, overwrite_output_dir=False)
    (tmp_path / "run/out").mkdir()
    (tmp_path / "run/out/notes.md").write_text("mine")
    done, logs = launched(tmp_path, SCRIPT, config)
    assert done.returncode != 0 and len(logs) == 2
    assert all("not an earlier output of train, it holds notes.md" in log and "Traceback" not in log for log in logs)
    assert [path.name for path in (tmp_path / "run/out").iterdir()] == ["notes.md"]
