"""Run training with paddle's launcher in real processes; warm up the parent process; name the processor."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from soak_children import SIGNALS, End, Fault
from soak_processes import free_port

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "paddlemix/examples/llava/supervised_finetune.py"
POLL = 0.05  # seconds between polls


def warm_up() -> None:
    """Set the environment and import the modules that every command needs, so that children need not."""
    os.environ["PADDLEMIX_OFFLINE"] = "1"
    os.environ["PADDLEMIX_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    from paddlemix.device import prepare_environment

    prepare_environment("cpu")
    import paddlemix.checkpoints.compose
    import paddlemix.checkpoints.convert
    import paddlemix.checkpoints.merge
    import paddlemix.train.lora
    import paddlemix.train.trainer  # noqa: F401
    from paddlemix.cli import COMMANDS, command_parser

    for name in COMMANDS:
        command_parser(name)


def run_launched(words: list[str], folder: Path, num_processes: int, limit: float, fault: Fault | None) -> End:
    """Run `paddlemix sft CONFIG` with the launcher.

    Signals are sent to the launcher, which forwards them. SIGKILL, which it cannot forward, is also sent to its
    processes.
    """
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(num_processes)]
    command += ["--master", f"127.0.0.1:{free_port()}", "--log_dir", str(folder / "launcher"), str(SCRIPT), *words[1:]]
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment["PYTHONPATH"] = str(ROOT)
    start, due = time.monotonic(), None if fault is None else fault.after
    with tempfile.TemporaryFile() as log:
        options = {"stdout": log, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **options)
        is_hung = False
        while process.poll() is None:
            passed = time.monotonic() - start
            is_hung = passed > limit
            if is_hung or (due is not None and passed >= due):
                _send_signal(process.pid, signal.SIGKILL if is_hung else SIGNALS[fault.kind])
                due = None
            time.sleep(POLL)
        log.seek(0)
        text = log.read().decode(errors="replace")
    return End((process.returncode,), (text,), is_hung, seconds=time.monotonic() - start)


def _send_signal(pid: int, number: int) -> None:
    """Send a signal to a launcher, and SIGKILL to its processes as well."""
    processes = [*_descendants(pid), pid] if number == signal.SIGKILL else [pid]
    for one in processes:
        try:
            os.kill(one, number)
        except ProcessLookupError:
            continue  # it has already exited


def _descendants(pid: int) -> list[int]:
    """Return the descendants of a process, from /proc."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has exited
        parents[int(path.parent.name)] = int(fields[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def processor_name() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
