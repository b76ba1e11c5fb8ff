"""What a run shows: settings, data and steps, a bar on a terminal, the losses, what comes next, and an error."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_folder
from tiny_training import LORA, settings, train

from paddlemix.cli import command_parser
from paddlemix.commands.train import main

ROOT = Path(__file__).parents[2]
BREAKING = """
import sys
import paddlemix.commands.train as command

load = command._load

def load_and_break(hidden):
    load(hidden)
    from paddlemix.train.trainer import LlavaTrainer
    step = LlavaTrainer.training_step

    def break_later(trainer, *arguments):
        if trainer.state.global_step == 3:
            raise RuntimeError("the card has gone")
        return step(trainer, *arguments)

    LlavaTrainer.training_step = break_later

command._load = load_and_break
sys.exit(command.main(sys.argv[1:], script="sft", template=None))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_folder.write_rows(tmp_path_factory.mktemp("data"))


def on_a_terminal(command: list[str], folder: Path) -> tuple[int, str]:
    """Run a command with a terminal as its output; return its exit code and what the terminal got."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=follower, stderr=follower)
    os.close(follower)
    parts = []
    while True:
        try:
            parts.append(os.read(leader, 1 << 16))
        except OSError:  # the process has ended
            break
    os.close(leader)
    return process.wait(), b"".join(parts).decode()


def test_a_terminal_gets_one_bar_and_one_error_and_the_log_has_the_rest(tmp_path, data):
    config = tmp_path / "run.json"
    config.write_text(json.dumps(settings(tmp_path, data, disable_tqdm=False)))
    code, text = on_a_terminal([sys.executable, "-c", BREAKING, str(config)], tmp_path)
    assert code == 1, text
    lines = [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").rstrip().split("\n")]
    bars = [line for line in lines if "━" in line]
    assert len(bars) == 1 and "3/4" in bars[0] and re.search(r"loss \d.* tokens/s .* left", bars[0])
    assert lines[-2:] == [
        "error: RuntimeError: the card has gone",
        f"log: {tmp_path}/out/run.log has what libraries printed before the error",
    ]
    assert len(lines) < 30 and "Traceback" not in text and "DEBUG" not in text and "INFO" not in text
    log = (tmp_path / "out" / "run.log").read_text()
    assert "Training Configuration Arguments" in log and "global_step: 3" in log
    assert log.rstrip().endswith("RuntimeError: the card has gone") and "Traceback" in log


def test_a_run_says_what_it_does_and_what_comes_next(tmp_path, data, capsys):
    folder = tmp_path / "with a space"
    folder.mkdir()
    values = settings(folder, {"train": [{"data_files": str(data)}], "eval": [{"data_files": str(data)}]}, **LORA)
    values |= {"evaluation_strategy": "steps", "eval_steps": 2, "warmup_steps": 0}
    (folder / "run.json").write_text(json.dumps(values))
    flags = ["--lora_rank", "4", "--max_grad_norm", "0.5", "--report_to", "none", "--recompute", "false"]
    assert main([str(folder / "run.json"), *flags], script="sft", template=None) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [line.split(maxsplit=1) for line in lines if line.startswith("  ")]
    assert ["learning_rate", "0.001"] in shown and ["lora_rank", "4"] in shown and ["max_steps", "4"] in shown
    assert not {"warmup_steps", "lora_path"} & {name for name, *_ in shown}  # the defaults
    assert ["output_dir", str(folder / "out")] in shown and ["overwrite_output_dir", "true"] in shown
    assert [line.split() for line in lines if line.startswith("  dataset")] == [
        ["dataset,", split, str(data)] for split in ("train", "eval")
    ]
    assert any(re.fullmatch(r"train: 8 rows, [\d,]+ tokens, template \w+", line) for line in lines)
    assert "steps: 4 of 2 rows (1 epoch), on cpu in float32" in lines
    assert sum(bool(re.match(r"step \d of 4  loss ", line)) for line in lines) == 4
    assert [line.split(":")[0] for line in lines if line.startswith("evaluation after")] == [
        "evaluation after step 2",
        "evaluation after step 4",
    ]
    end = lines[lines.index("") + 1 :]
    assert [line.split()[0] for line in end] == "trained loss evaluation result plot next chat merge evaluate".split()
    results = json.loads((folder / "out" / "train_results.json").read_text())
    assert re.search(r", ([\d,.]+) tokens/s on average$", end[0])[1] == f"{results['tokens_per_second']:,.0f}"
    given = results["settings"]
    assert (given["lora_rank"], given["max_grad_norm"], given["recompute"]) == (4, 0.5, False)
    assert given["learning_rate"] == 0.001 and given["report_to"] == ["none"]
    for line in end[6:8]:
        words = shlex.split(line.split(maxsplit=1)[1])
        command = words[words.index("paddlemix") + 1 :] if "paddlemix" in words else words[1:]
        arguments = command_parser(command[0]).parse(command[1:])
        assert str(folder / "out") in vars(arguments).values()


def test_a_run_that_logged_no_loss_shows_the_first_and_the_last_steps(tmp_path, data, capsys):
    values = settings(tmp_path, data)
    losses = train(values).recorder.losses
    capsys.readouterr()
    (tmp_path / "run.json").write_text(json.dumps({**values, "logging_steps": 500}))
    assert main([str(tmp_path / "run.json")], script="sft", template=None) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("loss "))
    expected = f"{losses[0]:.4g} at step 1, last {losses[-1]:.4g} at step 4 (logging_steps is 500)"
    assert line.split(maxsplit=1) == ["loss", expected]
