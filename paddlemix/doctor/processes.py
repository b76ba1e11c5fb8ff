"""Runs parts in processes of their own, so that one which crashes or hangs takes nothing else with it.

After a crash a new process goes on with what is left. A part that dies while a device's own kernels are in use is done
again with plain operations only, and so are training and chat then; a library that an ARM machine cannot load late is
loaded first. Either way the part stays marked, with what to set.
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

from .check import FAILED, SKIPPED, WARNING, Check
from .error_text import of_end
from .worker import KERNELS, NEEDED, RUNS

PATIENCE = 600.0  # seconds for one part: a first run may compile kernels
POLL = 0.05
PLAIN = "PADDLEMIX_PLAIN_OPS"
WORKER = f"{__package__}.worker"


@dataclass
class Crew:
    """Who does parts on a device. variables: set beside those of this process. worker: the module that is run."""

    device: str
    variables: dict[str, str] = field(default_factory=dict)
    patience: float = PATIENCE
    tell: Callable[[str], None] = lambda part: None
    worker: str = WORKER
    has_lost: bool = False

    def work(self, parts: Sequence[str]) -> Iterator[Check]:
        """Yield a check for each part, in order, whatever happens to the processes that do them."""
        left, earlier, once = list(parts), None, {}
        while left:
            if self.has_lost and left[0] in RUNS:
                once = {PLAIN: "1"}
            for check, is_whole in self._run(left[:1] if earlier else _together(left), once):
                cure = {} if earlier else self._cure(check, is_whole, once)
                if cure:  # once more, under other variables
                    earlier, once = check, cure
                    break
                left.pop(0)
                yield _joined(check, earlier, once)
                earlier, once = None, once if left and left[0] in RUNS else {}
                if check.status == FAILED and check.name in NEEDED:
                    yield from (Check(name, SKIPPED, [f"needs {check.name}, which failed"]) for name in left)
                    return

    def _cure(self, check: Check, is_whole: bool, once: dict[str, str]) -> dict[str, str]:
        """Return the variables with which a part is worth another try, if there are some that are not set yet."""
        library = check.values.get("preload")
        if library and library not in self._variable("LD_PRELOAD"):
            self.variables["LD_PRELOAD"] = " ".join(filter(None, [self._variable("LD_PRELOAD"), library]))
            return {"LD_PRELOAD": self.variables["LD_PRELOAD"]}
        if is_whole or PLAIN in once or check.name not in (*KERNELS, *RUNS) or self._variable(PLAIN) not in ("", "0"):
            return {}
        self.has_lost = True
        return {PLAIN: "1"}

    def _variable(self, name: str) -> str:
        return self.variables.get(name, os.environ.get(name, ""))

    def _run(self, parts: list[str], once: dict[str, str]) -> Iterator[tuple[Check, bool]]:
        """Yield the checks of one process, and whether it did them to the end; at least one."""
        with tempfile.TemporaryDirectory(prefix="paddlemix-doctor-") as folder:
            results, log = Path(folder) / "results", Path(folder) / "log"
            results.touch()
            process = self._start(results, log, parts, once)
            try:
                yield from self._follow(process, results, log, parts[0])
            finally:
                _end(process)

    def _start(self, results: Path, log: Path, parts: list[str], once: dict[str, str]) -> subprocess.Popen:
        home = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
        variables = {**os.environ, **self.variables, **once, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
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


def _together(parts: list[str]) -> list[str]:
    """Return the first parts that share a process: training and chat have one of their own."""
    return [part for part in parts if (part in RUNS) == (parts[0] in RUNS)]


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


def _joined(check: Check, earlier: Check | None, cure: dict[str, str]) -> Check:
    """Return a check that was done again, with what happened before and what to set if it went better."""
    if earlier is None:
        if PLAIN in cure and check.status != SKIPPED:
            check.say(f"with {PLAIN}=1, since kernels above ended the process")
        return check
    cause = [*earlier.facts[-1:], *check.facts]
    if check.status == FAILED:
        return Check(check.name, FAILED, cause, [*earlier.advice, *check.advice], check.values)
    ((name, value),) = cure.items()
    status = WARNING if name == "LD_PRELOAD" else FAILED
    advice = f"export {name}={value!r} before python: with it this went on as the other lines tell"
    return Check(check.name, status, cause, [advice, *check.advice], {**check.values, "lost": earlier.facts})


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _end(process: subprocess.Popen) -> None:
    """End a process and all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
