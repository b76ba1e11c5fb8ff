"""Runs parts in processes of their own, so that one which crashes or hangs takes nothing else with it.

After a crash a new process goes on with what is left. A part that dies while a device's own kernels are in use is done
again with plain operations only, and so is all that follows; a library that an ARM machine cannot load late is loaded
first. Either way the part stays marked, with what to set.
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

from ..train.checks.result import FAILED, SKIPPED, WARNING, Check
from .words import of_end
from .worker import NEEDED

PATIENCE = 600.0  # seconds for one part: a first run may compile kernels
POLL = 0.05
PLAIN = "PADDLEMIX_PLAIN_OPS"
WORKER = f"{__package__}.worker"
USES_KERNELS = ("dense", "masked", "packed", "rms norm", "rotary", "swiglu", "training", "chat")


@dataclass
class Crew:
    """Who does parts on a device. variables: set beside those of this process. worker: the module that is run."""

    device: str
    variables: dict[str, str] = field(default_factory=dict)
    patience: float = PATIENCE
    tell: Callable[[str], None] = lambda part: None
    worker: str = WORKER

    def work(self, parts: Sequence[str]) -> Iterator[Check]:
        """Yield a check for each part, in order, whatever happens to the processes that do them."""
        left, earlier = list(parts), None
        while left:
            for check, is_whole in self._run(left):
                cure = self._cure(check, is_whole)
                if cure:  # once more, under other variables
                    earlier = check
                    self.variables |= cure
                    break
                left.pop(0)
                yield _joined(check, earlier, self.variables)
                earlier = None
                if check.status == FAILED and check.name in NEEDED:
                    yield from (Check(name, SKIPPED, [f"needs {check.name}, which failed"]) for name in left)
                    return

    def _cure(self, check: Check, is_whole: bool) -> dict[str, str]:
        """Return the variables with which a part is worth another try, if there are some that are not set yet."""
        library = check.values.get("preload")
        if library and library not in self._variable("LD_PRELOAD"):
            return {"LD_PRELOAD": " ".join(filter(None, [self._variable("LD_PRELOAD"), library]))}
        if not is_whole and check.name in USES_KERNELS and self._variable(PLAIN) in ("", "0"):
            return {PLAIN: "1"}
        return {}

    def _variable(self, name: str) -> str:
        return self.variables.get(name, os.environ.get(name, ""))

    def _run(self, parts: list[str]) -> Iterator[tuple[Check, bool]]:
        """Yield the checks of one process, and whether it did them to the end; at least one."""
        with tempfile.TemporaryDirectory(prefix="paddlemix-doctor-") as folder:
            results, log = Path(folder) / "results", Path(folder) / "log"
            results.touch()
            process = self._start(results, log, parts)
            try:
                yield from self._follow(process, results, log, parts[0])
            finally:
                _end(process)

    def _start(self, results: Path, log: Path, parts: list[str]) -> subprocess.Popen:
        home = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
        variables = {**os.environ, **self.variables, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", self.worker, self.device, str(results), *parts]
        with log.open("wb") as file:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=variables, start_new_session=True
            )

    def _follow(self, process: subprocess.Popen, results: Path, log: Path, first: str) -> Iterator[tuple[Check, bool]]:
        """Yield checks as they come; for a process that ends or hangs within a part, one that says so."""
        part, since, is_begun, num_done = first, time.monotonic(), True, 0
        with results.open(encoding="utf-8") as file:
            while True:
                has_ended = process.poll() is not None  # asked before reading, so that no line is lost
                for line in _whole_lines(file):
                    since = time.monotonic()
                    if "begin" in line:
                        part, is_begun = line["begin"], True
                        self.tell(part)
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


def _whole_lines(file) -> Iterator[dict]:
    """Yield the lines that are written to their end; what is not is read again later."""
    while True:
        place = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(place)
            return
        yield json.loads(line)


def _lost(part: str, what: str, log: Path) -> Check:
    """Return the check of a part whose process was lost, with where it was and what it said last."""
    marks = [line[3:].strip() for line in _read(log).splitlines() if line.startswith("== ")]
    where = f" in {marks[-1]}" if marks and marks[-1] != part else ""
    check = Check(part, values={"log": _read(log).splitlines()[-20:]})
    check.fail(f"{what}{where and f' (at work{where})'}")
    return check


def _joined(check: Check, earlier: Check | None, variables: dict[str, str]) -> Check:
    """Return a check that was done again, with what happened before and what to set if it went better."""
    if earlier is None:
        return check
    cause = [*earlier.facts[-1:], *check.facts]
    if check.status == FAILED:
        return Check(check.name, FAILED, cause, [*earlier.advice, *check.advice], check.values)
    name = "LD_PRELOAD" if earlier.values.get("preload") else PLAIN
    status = WARNING if name == "LD_PRELOAD" else FAILED
    cure = f"export {name}={variables[name]!r} before python: with it this check and those below went on"
    return Check(check.name, status, cause, [cure, *check.advice], {**check.values, "lost": earlier.facts})


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _end(process: subprocess.Popen) -> None:
    """End a process and all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
