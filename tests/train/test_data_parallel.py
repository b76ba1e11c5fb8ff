"""Two processes train as one does with the same global batch, and only the first one writes."""

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
from several_nodes import free_port
from tiny_training import LORA, settings, weights

from paddlemix import LlavaForConditionalGeneration
from paddlemix.train.run_folder import last_checkpoint

SCRIPT = Path(__file__).parents[2] / "paddlemix/examples/llava/supervised_finetune.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight rows with none to three images: in some steps one process has no image."""
    return tiny_folder.write_rows(tmp_path_factory.mktemp("data"))


def run(folder: Path, values: dict, num_processes: int) -> Path:
    """Train with the script, in its own processes; return the output folder."""
    done, logs = launched(folder, values, num_processes)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:] + "".join(log[-3000:] for log in logs)
    (folder / "printed.log").write_text(done.stdout + done.stderr)
    return Path(values["output_dir"])


def launched(folder: Path, values: dict, num_processes: int) -> tuple[subprocess.CompletedProcess, list[str]]:
    """Run the script in its own processes to its end; return its result and the log of each process."""
    folder.mkdir(exist_ok=True)
    config = folder / "config.json"
    config.write_text(json.dumps(values))
    command = [sys.executable]
    if num_processes > 1:
        master = f"127.0.0.1:{free_port()}"
        command += ["-m", "paddle.distributed.launch", "--master", master, "--nproc_per_node", str(num_processes)]
        command += ["--log_dir", str(folder / "log")]
    environment = {**os.environ, "PADDLEMIX_NUM_THREADS": "1"}
    command += [str(SCRIPT), str(config)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, cwd=folder)
    return done, [log.read_text() for log in sorted(folder.glob("log/workerlog.*"))]


def losses(output: Path) -> list[float]:
    text = (output / "run.log").read_text()  # with all digits
    return [float(line.split("loss: ")[1].split(",")[0]) for line in text.splitlines() if " loss: " in line]


def assert_same_training(one: Path, two: Path) -> None:
    start = weights(LlavaForConditionalGeneration.from_pretrained(tiny_folder.folder("anyres")))
    first, second = (weights(LlavaForConditionalGeneration.from_pretrained(path)) for path in (one, two))
    moved = max(np.abs(first[name] - start[name]).max() for name in start)
    assert moved > 1e-4
    assert max(np.abs(first[name] - second[name]).max() for name in start) < 1e-5
    assert losses(one) == pytest.approx(losses(two), abs=1e-5)
    assert len(losses(one)) == 3


def values_of(folder: Path, data: Path, **changes) -> dict:
    shared = {"max_steps": 3, "max_grad_norm": 1.0, "adam_epsilon": 0.01, "save_strategy": "steps", "save_steps": 2}
    return {**settings(folder, data, "anyres"), **shared, **changes}


@pytest.mark.parametrize("changes", [{}, {"sharding": "stage1"}], ids=["data parallel", "sharding stage 1"])
def test_two_processes_train_as_one_with_the_same_global_batch(tmp_path, data, changes):
    one = run(tmp_path / "one", values_of(tmp_path / "one", data, per_device_train_batch_size=4), 1)
    options = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, **changes}
    two = run(tmp_path / "two", values_of(tmp_path / "two", data, **options), 2)
    assert_same_training(one, two)
    assert last_checkpoint(two).name == "checkpoint-2"
    printed = (tmp_path / "two" / "printed.log").read_text()
    assert printed.count("train: 8 rows") == 1  # the second process writes only to its own log
    if changes:
        assert_a_payload_of_one_process_ends_both(tmp_path / "rest", two, values_of(tmp_path / "rest", data, **options))


def assert_a_payload_of_one_process_ends_both(folder: Path, before: Path, values: dict) -> None:
    """The second process alone reads the file; the first one must not wait for it."""
    shutil.copytree(before / "checkpoint-2", folder / "out/checkpoint-2")
    bad = folder / "out/checkpoint-2/optimizer.shard01.pdopt"
    bad.write_bytes(b"\x80\x02cposix\nsystem\nX\x09\x00\x00\x00touch ran\x85R.")
    done, logs = launched(folder, {**values, "overwrite_output_dir": False}, 2)
    assert done.returncode != 0 and not (folder / "ran").exists()
    assert all(f"error: {bad} is refused: it refers to posix.system" in log for log in logs)
    assert all("Traceback" not in log for log in logs)


def test_lora_over_nf4_and_packing_in_two_processes_train_as_in_one(tmp_path, data):
    shared = {**LORA, "load_in_4bit": True, "mixtoken": True, "max_length": 500}
    one = run(tmp_path / "one", values_of(tmp_path / "one", data, **shared, per_device_train_batch_size=2), 1)
    two = run(tmp_path / "two", values_of(tmp_path / "two", data, **shared, per_device_train_batch_size=1), 2)
    first, second = (
        weights(LlavaForConditionalGeneration.from_pretrained(path, base=tiny_folder.folder("anyres")))
        for path in (one, two)
    )
    assert max(np.abs(first[name] - second[name]).max() for name in first) < 1e-5
    assert losses(one) == pytest.approx(losses(two), abs=1e-5)


def test_two_processes_answer_tasks_as_one_does_and_so_do_resumed_ones(tmp_path, data):
    """Five questions for two processes, and one question, of which one process has none."""
    rows = [{"question": f"What colour is shape {number}?", "answer": "(?i)e"} for number in range(5)]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"task": "custom", "data_dir": str(questions), "rule": "regex", "max_new_tokens": 24}
    tasks = [{**task, "name": "five"}, {**task, "name": "one", "limit": 1}]
    shared = {"eval_tasks": tasks, "evaluation_strategy": "steps", "eval_steps": 2}
    options = {"per_device_train_batch_size": 2, "sharding": "stage1", **shared}
    one = run(tmp_path / "one", values_of(tmp_path / "one", data, per_device_train_batch_size=4, **shared), 1)
    two = run(tmp_path / "two", values_of(tmp_path / "two", data, **options), 2)
    for name in ("eval_tasks/five.jsonl", "eval_tasks/one.jsonl"):
        assert (two / name).read_bytes() == (one / name).read_bytes()
    first, second = (json.loads((out / "eval_results.json").read_text()) for out in (one, two))
    assert {name: first[name] for name in ("eval_five", "eval_one")}.items() <= second.items()
    assert losses(one) == pytest.approx(losses(two), abs=1e-5)
    rest = tmp_path / "rest"
    shutil.copytree(two / "checkpoint-2", rest / "out/checkpoint-2")
    again = run(rest, {**values_of(rest, data, **options), "overwrite_output_dir": False}, 2)
    assert (again / "eval_tasks/five.jsonl").read_bytes() == (two / "eval_tasks/five.jsonl").read_bytes()


def test_a_folder_with_other_files_ends_both_processes(tmp_path, data):
    """Only the first process looks at it: the second one would find what the first is writing."""
    values = {**values_of(tmp_path, data, per_device_train_batch_size=1), "overwrite_output_dir": False}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.md").write_text("mine")
    done, logs = launched(tmp_path, values, 2)
    assert done.returncode != 0 and len(logs) == 2
    assert all("not an earlier output of train, it holds notes.md" in log and "Traceback" not in log for log in logs)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.md"]
