"""Benchmarks on simulated cards: two cards, one process each, write the file of one card."""

from __future__ import annotations

import json

import pytest
import tiny_folder
from simulator import ROOT, read_statistics
from tiny_training import settings

SCRIPT = ROOT / "paddlemix" / "examples" / "llava" / "eval" / "run.py"
NUM = 14


@pytest.fixture
def questions(tmp_path):
    rows = []
    for number in range(NUM):
        tiny_folder.save_image(tmp_path / "images" / f"{number // 3}.png", number // 3)
        rows.append({"question": f"What is number {number}?", "image": f"{number // 3}.png", "answer": "x"})
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PADDLE_XCCL_BACKEND": "npu"}  # the launcher of paddle 3.0.0 needs it


def launcher(folder):
    return ["-m", "paddle.distributed.launch", "--host", "127.0.0.1", "--devices", "0,1", "--log_dir", folder / "log"]


def test_two_cards_write_the_file_of_one(npu_sim, questions, tmp_path):
    files = {}
    for count in (1, 2):
        launch = launcher(tmp_path)
        words = ["custom", "--model-path", tiny_folder.folder("anyres"), "--data-dir", questions, "--output",
                 tmp_path / f"out-{count}", "--device", "npu", "--max-new-tokens", "6"]  # fmt: skip
        done = npu_sim.run(
            [*(launch if count > 1 else []), SCRIPT, *words],
            num_cards=count,
            environment=ENVIRONMENT,
            folder=tmp_path,
        )
        logs = [log.read_text() for log in sorted(tmp_path.glob("log/workerlog.*"))]
        assert done.returncode == 0, done.text[-4000:] + "".join(log[-4000:] for log in logs)
        statistics = [read_statistics(text)[0][-1] for text in (logs or [done.errors])]
        assert len(statistics) == count and all(one.copies["h2d"] > 0 for one in statistics)
        files[count] = (tmp_path / f"out-{count}" / "custom" / "answers.jsonl").read_bytes()
        recorded = json.loads((tmp_path / f"out-{count}" / "run.json").read_text())["tasks"]["custom"]
        assert recorded["run"]["device"] == "npu"
    assert files[1] == files[2] and files[1].count(b"\n") == NUM


def test_two_cards_that_train_answer_eval_tasks_as_one(npu_sim, questions, tmp_path):
    data = tiny_folder.write_rows(tmp_path / "rows")
    found = {}
    for count in (1, 2):
        folder = tmp_path / f"train-{count}"
        folder.mkdir()
        task = {"task": "custom", "name": "own", "data_dir": str(questions), "rule": "contains", "max_new_tokens": 6}
        values = settings(folder, data, "pad", device="npu", max_steps=2, eval_tasks=[task], do_eval=True)
        values |= {"per_device_train_batch_size": 4 // count, "max_length": 500, "evaluation_strategy": "steps"}
        (folder / "config.json").write_text(json.dumps({**values, "eval_steps": 1}))
        script = ROOT / "paddlemix" / "examples" / "llava" / "supervised_finetune.py"
        words = [*(launcher(folder) if count > 1 else []), script, folder / "config.json"]
        done = npu_sim.run(words, num_cards=count, environment=ENVIRONMENT, folder=tmp_path)
        logs = "".join(log.read_text()[-4000:] for log in folder.glob("log/workerlog.*"))
        assert done.returncode == 0, done.text[-4000:] + logs
        found[count] = (folder / "out" / "eval_tasks" / "own.jsonl").read_bytes()
    assert found[1] == found[2] and found[1].count(b"\n") == NUM
