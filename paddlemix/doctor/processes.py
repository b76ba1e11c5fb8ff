"""Run the parts of a report in subprocesses, so that a crash or a hang of one does not end the others.

After a crash a new process continues with the next part. If the device's own kernels were in use, the part is repeated
with plain operations, which training and chat then use too. A library that an ARM machine cannot load late is loaded
first. In both cases the report marks the part and names the variable to set.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..packages import import_path
from .check import FAILED, SKIPPED, WARNING, Check
from .error_text import of_end
from .worker import KERNELS, NEEDED, RUNS

PATIENCE = 600.0  # seconds for one part: a first run may compile kernels
POLL = 0.05
PLAIN = "PADDLEMIX_PLAIN_OPS"
WORKER = f"{__package__}.worker"


@dataclass
class CheckProcesses:
    """Runs checks of a device in subprocesses.

    variables: environment variables to add to this process's. patience: seconds for a part. report_part: called with
    the name of each part when it begins. worker: the module to run. has_crashed: a kernel of the device has crashed.
    """

    device: str
    variables: dict[str, str] = field(default_factory=dict)
    patience: float = PATIENCE
    report_part: Callable[[str], None] = lambda part: None
    worker: str = WORKER
    has_crashed: bool = False

    def run(self, parts: Sequence[str]) -> Iterator[Check]:
        """Yield a check for each part, in order, whatever happens to the processes."""
        left, earlier, once = list(parts), None, {}
        while left:
            if self.has_crashed and left[0] in RUNS:
                once = {PLAIN: "1"}
            for check, is_whole in self._run_process(left[:1] if earlier else _shared(left), once):
                remedy = {} if earlier else self._remedy(check, is_whole, once)
                if remedy:  # repeat the part with other variables
                    earlier, once = check, remedy
                    break
                left.pop(0)
                yield _joined(check, earlier, once)
                earlier, once = None, once if left and left[0] in RUNS else {}
                if check.status == FAILED and check.name in NEEDED:
                    yield from (Check(name, SKIPPED, [f"needs {check.name}, which failed"]) for name in left)
                    return

    def _remedy(self, check: Check, is_whole: bool, once: dict[str, str]) -> dict[str, str]:
        """Return variables with which a part may succeed, {} if there are none that are not set yet."""
        library = check.values.get("preload")
        if library and library not in self._variable("LD_PRELOAD"):
            self.variables["LD_PRELOAD"] = " ".join(filter(None, [self._variable("LD_PRELOAD"), library]))
            return {"LD_PRELOAD": self.variables["LD_PRELOAD"]}
        if is_whole or PLAIN in once or check.name not in (*KERNELS, *RUNS) or self._variable(PLAIN) not in ("", "0"):
            return {}
        self.has_crashed = True
        return {PLAIN: "1"}

    def _variable(self, name: str) -> str:
        return self.variables.get(name, os.environ.get(name, ""))

    def _run_process(self, parts: list[str], once: dict[str, str]) -> Iterator[tuple[Check, bool]]:
        """Yield the checks of one process, at least one, and whether it completed them."""
        with tempfile.TemporaryDirectory(prefix="paddlemix-doctor-") as folder:
            results, log = Path(folder) / "results", Path(folder) / "log"
            results.touch()
            process = self._start(results, log, parts, once)
            try:
                yield from self._follow(process, results, log, parts[0])
            finally:
                _end(process)

    def _start(self, results: Path, log: Path, parts: list[str], once: dict[str, str]) -> subprocess.Popen:
        variables = {**os.environ, **self.variables, **once, "PYTHONPATH": import_path(), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", self.worker, self.device, str(results), *parts]
        with log.open("wb") as file:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=variables, start_new_session=True
            )

    def _follow(self, process: subprocess.Popen, results: Path, log: Path, first: str) -> Iterator[tuple[Check, bool]]:
        """Yield checks as they arrive, and a failed one for a part in which the process ended or hung."""
        part, since, is_begun, num_done = first, time.monotonic(), True, 0
        with results.open(encoding="utf-8") as file:
            while True:
                has_ended = process.poll() is not None  # before reading, so that no line is lost
                for line in _whole_lines(file):
                    since = time.monotonic()
                    if "begin" in line:
                        part, is_begun = line["begin"], True
                        self.report_part(part)
                    else:
                        is_begun, num_done = False, num_done + 1
                        yield Check(**line["check"]), True
                if has_ended:
                    if is_begun or not num_done:
                        yield _lost(part, of_end(process.returncode, _read(log)), log), False
                    return
                if time.monotonic() - since > self.patience:
                    yield _lost(part, f"nothing happened for {self.patience:.0f} seconds", log), False
                    return
                time.sleep(POLL)


def _shared(parts: list[str]) -> list[str]:
    """Return the first parts that can share a process; training and chat have a separate one."""
    return [part for part in parts if (part in RUNS) == (parts[0] in RUNS)]


def _whole_lines(file) -> Iterator[dict]:
    """Yield the complete lines; an incomplete one is read again later."""
    while True:
        position = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(position)
            return
        yield json.loads(line)


def _lost(part: str, what: str, log: Path) -> Check:
    """Return the check of a part whose process was lost, with the last mark and the last lines of its log."""
    marks = [line[3:].strip() for line in _read(log).splitlines() if line.startswith("== ")]
    where = f" (in {marks[-1]})" if marks and marks[-1] != part else ""
    check = Check(part, values={"log": _read(log).splitlines()[-20:]})
    check.fail(f"{what}{where}")
    return check


def _joined(check: Check, earlier: Check | None, remedy: dict[str, str]) -> Check:
    """Return a repeated check with the failure before it, and the variable to set if the remedy helped."""
    if earlier is None:
        if PLAIN in remedy and check.status != SKIPPED:
            check.say(f"with {PLAIN}=1, since kernels above ended the process")
        return check
    facts = [*earlier.facts[-1:], *check.facts]
    if check.status == FAILED:
        return Check(check.name, FAILED, facts, [*earlier.advice, *check.advice], check.values)
    ((name, value),) = remedy.items()
    status = WARNING if name == "LD_PRELOAD" else FAILED
    advice = f"export {name}={value!r} before python: the other lines show the results with it"
    return Check(check.name, status, facts, [advice, *check.advice], {**check.values, "lost": earlier.facts})


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _end(process: subprocess.Popen) -> None:
    """End a process and its children."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
