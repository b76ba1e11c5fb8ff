"""Interrupt one command, restart it, and check the folders after each fault and at the end."""

from __future__ import annotations

import functools
import shutil
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path

from soak_cases import OUT, OVER, Case, command, make_inputs
from soak_children import End, Fault, run_forked, tail
from soak_launched import run_launched
from soak_states import below, complete_checkpoints, differing, mixtures, state_of

LIMIT = 60.0  # seconds after which a child counts as hung
LAUNCH_LIMIT = 240.0  # the same for real processes, which import everything first
MAX_SHOWN = 6  # paths in a sentence
INPUTS = ("model", "anyres", "data", "lora", "anyres-lora", "official")
ENDS = {
    "kill": (-signal.SIGKILL,),
    "cut": (-signal.SIGXFSZ,),
    "full": (1,),
    "fail": (1,),
    "term": (-signal.SIGTERM, 128 + signal.SIGTERM),
    "int": (-signal.SIGINT, 128 + signal.SIGINT),
}  # exit codes that are allowed after a fault, besides 0
GONE_NEW_CHANGED = ("gone", "new", "changed")


class Soak:
    """The folders of a soak test, and the reference states of a case."""

    def __init__(self, root: Path):
        self.root, self.work, self.before = root, root / "work", root / "before"
        self.work.mkdir()
        make_inputs(root, self._run_or_exit)
        self.inputs = self.input_state()

    def input_state(self) -> dict[str, str]:
        """Return the state of the inputs, which no command may change."""
        return {f"{name}/{path}": value for name in INPUTS for path, value in state_of(self.root / name).items()}

    def _run_or_exit(self, function) -> None:
        end = run_forked(function, folder=self.root, watched=self.work, limit=10 * LIMIT)
        if end.code:
            raise SystemExit(f"writing the inputs failed with exit code {end.code}\n{end.logs[0][-3000:]}")

    def call(self, case: Case, words: list[str], fault: Fault | None = None) -> End:
        """Run a command line to its end or to the fault."""
        if case.is_launched:
            return run_launched(words, self.root, case.num_processes, LAUNCH_LIMIT, fault)
        options = {"folder": self.root, "watched": self.work, "limit": LIMIT, "num_processes": case.num_processes}
        return run_forked(functools.partial(_command, words), fault=fault, **options)

    def begin(self, case: Case) -> Trial:
        """Create the earlier output and the reference. Raises SystemExit if the command fails without a fault."""
        shutil.rmtree(self.before, ignore_errors=True)
        self._empty()
        if case.earlier is not None or case.earlier_words:
            self._succeed(case, command(self.root, case, is_earlier=True))
        shutil.copytree(self.work, self.before, symlinks=True)
        old, words = state_of(self.work), command(self.root, case)
        references = {"old": old} if old else {}
        if case.trains and "save_total_limit" in case.values:
            references["kept"] = self._with_all_checkpoints(case)
        end = self._succeed(case, words)
        new = state_of(self.work)
        return Trial(self, case, words, {**references, "new": new}, new, end.num_calls or 0, end.seconds)

    def _with_all_checkpoints(self, case: Case) -> dict[str, str]:
        """Return the complete checkpoints of a run that deletes none."""
        values = {key: value for key, value in case.values.items() if key != "save_total_limit"}
        other = replace(case, name=f"{case.name}-kept", values=values)
        self._succeed(other, command(self.root, other))
        state = state_of(self.work)
        self.restart()
        complete = tuple(f"{checkpoint}/" for checkpoint in complete_checkpoints(state))
        return {path: value for path, value in state.items() if path.startswith(complete)}

    def restart(self) -> None:
        """Restore the folder to its state before the command."""
        self._empty()
        shutil.copytree(self.before, self.work, symlinks=True, dirs_exist_ok=True)

    def _empty(self) -> None:
        shutil.rmtree(self.work)
        self.work.mkdir()

    def _succeed(self, case: Case, words: list[str]) -> End:
        end = self.call(case, words)
        if end.code or end.is_hung:
            log = "\n".join(log[-3000:] for log in end.logs)
            raise SystemExit(f"{case.name} fails without a fault: {' '.join(words)} exits with {end.codes}\n{log}")
        return end


@dataclass
class Trial:
    """A case with its reference states.

    references: valid states by name. new: the state after an uninterrupted run, which made num_calls changes in
    `seconds` seconds.
    """

    soak: Soak
    case: Case
    words: list[str]
    references: dict[str, dict[str, str]]
    new: dict[str, str]
    num_calls: int
    seconds: float
    planted: dict[str, str] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)

    def repeat(self) -> list[str]:
        """Run the command over its own finished output; it may refuse, but not change anything. Return failures."""
        self.soak.restart()
        self.found, self.planted = [], {}
        for _ in range(2):
            self._finish()
        return self.found

    def play(self, faults: list[Fault], is_continued: bool = False) -> list[str]:
        """Inject the faults, restart, and return failures. is_continued: first restart without overwrite_output_dir."""
        self.soak.restart()
        self.found, self.planted = [], {}
        for fault in faults:
            before = self.state()
            end = self.soak.call(self.case, self.words, fault)
            self._check_end(end, fault)
            self._check_files(before)
            if end.code == 0 and fault.kind in ("full", "fail"):
                self._report("it exited with 0, but", differing(self.state(), self.new))
            if not self.planted and complete_checkpoints(self.state()):
                self.planted = plant(self.soak.work)
        if is_continued:
            self._continue()
        self._finish()
        return self.found

    def state(self) -> dict[str, str]:
        """Return the state of the folder without planted files."""
        return {path: value for path, value in state_of(self.soak.work).items() if path not in self.planted}

    def _check_end(self, end: End, fault: Fault) -> None:
        if end.is_hung:
            self.found.append(f"hang: it did not end within {LIMIT:.0f} s after {fault}")
            return
        if self.case.num_processes > 1:
            if fault.rank is None:
                return  # the last one loses its peer and may report that in several lines
            end = end.of(fault.rank)
        if end.has_traceback:
            self.found.append(f"traceback after {fault}: {tail(end)}")
        elif end.code not in (0, *ENDS[fault.kind]):
            self.found.append(f"exit code {end.codes} after {fault}: {tail(end)}")
        elif end.code and fault.kind in ("full", "fail") and not end.has_one_line:
            self.found.append(f"no line that starts with 'error:' after {fault}: {tail(end)}")

    def _check_files(self, before: dict[str, str]) -> None:
        state = self.state()
        self._report("marked complete or loads:", mixtures(state, self.soak.work, self.case.output, self.references))
        lost = complete_checkpoints(before) - complete_checkpoints(state)
        if lost and (self.case.is_kept or (self.case.earlier is None and not complete_checkpoints(state))):
            self.found.append(f"lost: {', '.join(sorted(lost))}")

    def _continue(self) -> None:
        """Restart without overwrite_output_dir: the run must resume from its own checkpoint or be refused."""
        values = {key: value for key, value in self.case.values.items() if key not in OVER}
        other = replace(self.case, name=f"{self.case.name}-on", values=values)
        end = self.soak.call(other, command(self.soak.root, other))
        if end.code == 0:
            found = differing(below(self.state(), OUT), below(self.new, OUT))
            found = [text for text in found if not text.startswith("train_results.json")]  # it contains the settings
            self._report("without overwrite_output_dir it exited with 0, but", found)
        elif not end.has_one_line:
            self.found.append(f"without overwrite_output_dir it exited with {end.codes}: {tail(end)}")
        self._check_files({})

    def _finish(self) -> None:
        """Run the same command to its end and compare everything with an uninterrupted run."""
        output = self.case.output
        is_done = not differing(_output(self.state(), output), _output(self.new, output))
        end = self.soak.call(self.case, self.words)
        is_refused = end.code == 1 and end.has_one_line and is_done and not self.case.trains
        if end.code and not is_refused:
            self.found.append(f"restarted, it exited with {end.codes}: {tail(end)}")
        state, expected = self.state(), self.new
        if is_refused:
            state, expected = _output(state, output), _output(expected, output)
        self._report("in the end", differing(state, expected))
        left = {path: value for path, value in state_of(self.soak.work).items() if path in self.planted}
        self._report("foreign files:", differing(left, self.planted, GONE_NEW_CHANGED))
        self._report("inputs:", differing(self.soak.input_state(), self.soak.inputs, GONE_NEW_CHANGED))

    def _report(self, what: str, details: list[str]) -> None:
        if details:
            more = f" and {len(details) - MAX_SHOWN} more" if len(details) > MAX_SHOWN else ""
            self.found.append(f"{what} {'; '.join(details[:MAX_SHOWN])}{more}")


def _output(state: dict[str, str], output: str) -> dict[str, str]:
    return {path: value for path, value in state.items() if path == output or path.startswith(f"{output}/")}


def _command(words: list[str]) -> int:
    from paddlemix.cli import main

    return main(words)


def plant(work: Path) -> dict[str, str]:
    """Put foreign files beside and among the run's files; return their state."""
    before = state_of(work)
    for folder in ("checkpoint-best", "checkpoint-500"):  # neither is marked complete
        (work / OUT / folder).mkdir()
        (work / OUT / folder / "model.safetensors").write_bytes(b"somebody's weights")
    (work / "elsewhere").mkdir()
    (work / "elsewhere/model.safetensors").write_bytes(b"somebody's other weights")
    (work / OUT / "checkpoint-7").symlink_to(work / "elsewhere")
    for name in ("notes.txt", "checkpoint-notes.txt"):
        (work / OUT / name).write_text("somebody's notes")
    return {path: value for path, value in state_of(work).items() if path not in before}
