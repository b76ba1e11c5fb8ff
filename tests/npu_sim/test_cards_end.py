"""Two processes of the example script: stopped by SIGTERM, with one process killed, and with --dry-run.

They run on simulated cards and, where both behave the same, on the CPU.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_folder
from gloo import check_connected, connected
from several_nodes import free_port, ranks_of
from tiny_training import LORA, settings

import paddlemix
from paddlemix.train.run_folder import last_checkpoint

SCRIPT = Path(paddlemix.__file__).parent / "examples/llava/supervised_finetune.py"
SHIPPED = Path(paddlemix.__file__).parent / "config/llava/v1_5/lora_sft_argument_stage2.json"
PATIENCE = 600  # seconds for training to start on a busy machine
BOUND = 240  # seconds for a run to end: the launcher waits 30 before it kills the processes


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return tiny_folder.write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture
def start(npu_sim, tmp_path, rows):
    """Return a function like `launched`; kill all its processes after the test."""
    launchers = []

    def starts(*words: str, **changes) -> subprocess.Popen:
        launchers.append(launched(npu_sim, tmp_path, rows, *words, **changes))
        return launchers[-1]

    yield starts
    for launcher in launchers:
        if launcher.poll() is None:
            for process in (*children(launcher), launcher.pid):
                os.kill(process, signal.SIGKILL)
            launcher.wait()


def launched(npu_sim, folder: Path, rows: Path, *words: str, device: str = "npu", **changes) -> subprocess.Popen:
    """Train a tiny model in two processes with the shipped settings for LoRA and sharding stage 2 (CPU: stage 1)."""
    shipped = json.loads(SHIPPED.read_text(encoding="utf-8"))
    own = {**settings(folder, rows, "anyres"), "device": device, "max_steps": 2000, "evaluation_strategy": "no"}
    own |= {"sharding_parallel_degree": 2, "lora_rank": LORA["lora_rank"], "per_device_train_batch_size": 1, **changes}
    own |= {"sharding": "stage1"} if device == "cpu" else {}
    (folder / "config.json").write_text(json.dumps({**shipped, **own}))
    own_variables = npu_sim.card_environment(2) if device == "npu" else npu_sim.plain_environment()
    environment = {**own_variables, "OMP_NUM_THREADS": "1"}
    del environment["CUDA_VISIBLE_DEVICES"]  # the launcher would use an empty one as the list of cards
    if device == "npu":
        environment["PADDLE_XCCL_BACKEND"] = "npu"  # the launcher of paddle 3.0.0 needs it
        where = ["--host", "127.0.0.1", "--devices", "0,1"]
    else:
        where = ["--master", f"127.0.0.1:{free_port()}", "--nproc_per_node", "2"]
    launch = ["-m", "paddle.distributed.launch", *where, "--log_dir", str(folder / "log")]
    return subprocess.Popen(
        [sys.executable, *launch, str(SCRIPT), str(folder / "config.json"), *words],
        env=environment,
        cwd=folder,
        text=True,
        stdout=(folder / "printed.log").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def logs(folder: Path) -> list[str]:
    return [log.read_text(errors="replace") for log in sorted(folder.glob("log/workerlog.*"))]


def training(start, folder: Path, device: str) -> subprocess.Popen:
    """Start two processes and wait until the first step is logged; return their launcher."""
    launcher, end = start(device=device), time.monotonic() + PATIENCE
    while not (folder / "log/workerlog.1").is_file() or "step 1 of " not in logs(folder)[0]:
        if launcher.poll() is not None:
            check_connected((folder / "printed.log").read_text(), *logs(folder))
        assert launcher.poll() is None and time.monotonic() < end, (folder / "printed.log").read_text()[-3000:]
        time.sleep(0.2)
    return launcher


def ended(launcher: subprocess.Popen) -> int:
    """Wait for the end, at most BOUND seconds; return the exit code."""
    return launcher.wait(BOUND)


def children(launcher: subprocess.Popen) -> list[int]:
    """Return the process ids of the ranks, in order."""
    found = ranks_of(launcher)
    return [found[rank] for rank in sorted(found)]


@pytest.mark.parametrize("device", ["npu", "cpu"])
def test_sigterm_to_the_launcher_saves_once_and_ends_all_processes(start, tmp_path, device):
    launcher = connected(lambda _: training(start, tmp_path, device), tmp_path / "log")
    launcher.send_signal(signal.SIGTERM)
    assert ended(launcher) == signal.SIGTERM
    checkpoint = last_checkpoint(tmp_path / "out")
    assert checkpoint is not None and (checkpoint / "optimizer.shard01.pdopt").is_file()
    steps = {re.search(r"stopped by SIGTERM after step (\d+), with a checkpoint", text)[1] for text in logs(tmp_path)}
    assert steps == {checkpoint.name.partition("-")[2]}


def test_a_killed_process_ends_the_others_and_is_named(start, tmp_path):
    launcher = training(start, tmp_path, "npu")
    ranks = children(launcher)
    os.kill(ranks[1], signal.SIGKILL)
    assert ended(launcher) != 0
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    printed = (tmp_path / "printed.log").read_text()
    assert "Container failed" in printed and re.search(r"rank \d status failed", printed)


@pytest.mark.parametrize(("device", "changes"), [("npu", {"sharding": "stage3"}), ("cpu", {"load_in_4bit": True})])
def test_two_processes_check_a_run_together_and_leave_no_files(start, tmp_path, device, changes):
    def checked(_: int) -> tuple[int, str]:
        code = start("--dry-run", device=device, **changes).wait(PATIENCE)
        printed = (tmp_path / "printed.log").read_text()
        check_connected(printed, *logs(tmp_path))
        return code, printed

    code, printed = connected(checked, tmp_path / "log")
    assert code == 0, printed[-3000:] + "".join(logs(tmp_path))[-3000:]
    assert "FAILED" not in printed and "checkpoint of" in printed
    assert not (tmp_path / "out").exists()
