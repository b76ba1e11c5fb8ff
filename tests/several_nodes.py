"""Start the launchers of several machines on this one, by a command of the documentation."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from documentation import ROOT, block_with, linked_folder
from gloo import check_connected

PATIENCE = 300  # seconds for training to start on a busy machine
BOUND = 60  # seconds for a run to end when a process has ended; a guard needs one, the launcher three more
MASTER, CONFIG, CARDS = "10.0.0.1:8090", "config.json", "0,1,2,3,4,5,6,7"  # words of the command in the page


def ranks_of(launcher: subprocess.Popen) -> dict[int, int]:
    """Return the ids of a launcher's processes by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            status, variables = (path.parent / "status").read_text(), path.read_bytes().split(b"\0")
        except OSError:
            continue  # the process has just ended
        if f"PPid:\t{launcher.pid}\n" in status:
            rank = next((item for item in variables if item.startswith(b"PADDLE_TRAINER_ID=")), None)
            if rank is not None:
                found[int(rank.partition(b"=")[2])] = int(path.parent.name)
    return found


@dataclass
class Machine:
    """A launcher and the folder that it runs in."""

    launcher: subprocess.Popen
    folder: Path

    @property
    def printed(self) -> str:
        return (self.folder / "printed.log").read_text(errors="replace")

    @property
    def logs(self) -> list[str]:
        """The logs of its processes."""
        return [path.read_text(errors="replace") for path in sorted(self.folder.glob("log/*/workerlog.*"))]

    def processes(self) -> dict[int, int]:
        """Return the process ids by rank."""
        return ranks_of(self.launcher)

    def kill(self) -> None:
        """Kill the launcher and its processes, as a machine that is switched off."""
        for process in (self.launcher.pid, *self.processes().values()):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.launcher.wait()

    def ended(self) -> int:
        """Wait for the end of the launcher; return its exit code."""
        return self.launcher.wait(BOUND)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command(page: Path, cards: list[str], port: int) -> list[str]:
    """Return the command for several machines in a page, with the address, the cards and the file of a test."""
    words = shlex.split(block_with("--nnodes 2", page).replace("\\\n", " "))
    assert words[:3] == ["python", "-m", "paddlemix.train.launch"] and {MASTER, CONFIG, CARDS} <= set(words)
    number = words.index(CARDS)
    words[number - 1 : number + 1] = cards
    return [f"127.0.0.1:{port}" if word == MASTER else word for word in words]


@contextmanager
def machines(
    root: Path, values: list[dict], page: Path, cards: list[str], environment: dict[str, str]
) -> Iterator[list[Machine]]:
    """Start a launcher for each of the settings, in folders of their own; kill what is left at the end."""
    words, started = command(page, cards, free_port()), []
    try:
        for number, settings in enumerate(values):
            folder = root / f"machine{number}"
            folder.mkdir(parents=True)
            linked_folder(folder)
            (folder / CONFIG).write_text(json.dumps(settings))
            output = (folder / "printed.log").open("w")
            options = {"cwd": folder, "stdout": output, "stderr": subprocess.STDOUT, "start_new_session": True}
            variables = {**environment, "PYTHONPATH": str(ROOT)}
            started.append(Machine(subprocess.Popen([sys.executable, *words[1:]], env=variables, **options), folder))
        yield started
    finally:
        for machine in started:
            machine.kill()


def wait_for_losses(started: list[Machine], number: int) -> list[float]:
    """Wait until a number of losses is logged; return them. Raises NotConnectedError, see `gloo`."""
    end = time.monotonic() + PATIENCE
    while True:
        found = max((losses(machine) for machine in started), key=len)
        if len(found) >= number:
            return found[:number]
        texts = [text for machine in started for text in (machine.printed, *machine.logs)]
        is_running = all(machine.launcher.poll() is None for machine in started)
        if not is_running:
            check_connected(*texts)
        assert time.monotonic() < end and is_running, "".join(text[-3000:] for text in texts)
        time.sleep(0.2)


def losses(machine: Machine) -> list[float]:
    """Return the losses, with all digits, that the first process of a run has logged."""
    shared = (machine.folder.parent.glob(place) for place in ("*/run.log", "*/out/run.log"))
    paths = [*machine.folder.rglob("run.log"), *(path for paths in shared for path in paths)]
    lines = (line for path in paths[:1] for line in path.read_text().splitlines() if " loss: " in line)
    return [float(line.split(" loss: ")[1].split(",")[0]) for line in lines]


def last_error(machine: Machine) -> str:
    """Return the last line that a launcher printed, but for that with the name of a log, without "error: "."""
    line = [line for line in machine.printed.rstrip().splitlines() if not line.startswith("log: ")][-1]
    assert line.startswith("error: "), machine.printed[-3000:]
    return line.removeprefix("error: ")
