"""From handwritten digits to a score: the bundled model is trained by the script, with `eval_tasks`, and evaluated."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from documentation import EVALUATION, ROOT, blocks, linked_folder, run

NUM_UNSEEN, NUM_KILLS = 397, 3
AFTER = "work_dirs/digits/after"  # where evaluation.md evaluates the trained model
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder in which the model was trained and evaluated with the commands of evaluation.md as they stand."""
    folder = linked_folder(tmp_path_factory.mktemp("digits"))
    commands = blocks(EVALUATION[0], "bash")
    (make,) = (line for block in commands for line in block.splitlines() if "make_digits" in line)
    (train,) = (block for block in commands if "digits.json" in block and "supervised_finetune" in block)
    (folder / "printed.txt").write_text(run(f"{make}\n{train}", folder, timeout=900, variables=ON_CPU))
    return folder


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), **ON_CPU}


def call(folder, *words):
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=folder, env=environment(), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


def command(name):
    return ("-m", "paddlemix", "eval", "run", "custom", "--model-path", "work_dirs/digits/model", "--data-dir",
            "work_dirs/digits/questions.jsonl", "--output", name)  # fmt: skip


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_digits_are_learned_and_every_evaluation_says_so(folder):
    model = folder / "work_dirs" / "digits" / "model"
    found = json.loads((model / "train_results.json").read_text())
    assert found["eval_digits"] >= 0.9
    (history,) = model.glob("checkpoint-*/history.json")
    assert len(json.loads(history.read_text())["eval_digits"]) >= 3
    rows = rows_of(model / "eval_tasks" / "digits.jsonl")
    assert len(rows) == NUM_UNSEEN and sum(row["credit"] for row in rows) / NUM_UNSEEN == found["eval_digits"]
    assert (model / "loss.png").stat().st_size


def test_a_run_that_is_killed_three_times_writes_the_same_file_as_one_that_is_not(folder):
    printed = (folder / "printed.txt").read_text()
    whole = (folder / AFTER / "custom" / "answers.jsonl").read_bytes()
    rows = rows_of(folder / AFTER / "custom" / "answers.jsonl")
    trained = rows_of(folder / "work_dirs" / "digits" / "model" / "eval_tasks" / "digits.jsonl")
    assert [(row["id"], row["output"]) for row in rows] == [(row["id"], row["output"]) for row in trained]
    assert len(rows) == NUM_UNSEEN and f"{sum(row['credit'] for row in rows) / NUM_UNSEEN:.1%}" in printed
    draw, log = random.Random(7), folder / "out" / "custom" / "journal-0.jsonl"
    for _ in range(NUM_KILLS):
        # All answers take about 30 kB, of which each kill comes after at most 6 more.
        size = (log.stat().st_size if log.exists() else 0) + 500 + draw.random() * 4000
        process = subprocess.Popen(
            [sys.executable, *command("out")], cwd=folder, env=environment(), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None and not (log.exists() and log.stat().st_size > size):
            time.sleep(0.01)
        assert process.poll() is None, "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    printed = call(folder, *command("out"))
    assert "answers are there already" in printed
    assert (folder / "out" / "custom" / "answers.jsonl").read_bytes() == whole
    scores = [json.loads((folder / name / "scores.json").read_text()) for name in (AFTER, "out")]
    assert scores[0] == scores[1]
