"""One command that is struck and started again, and what must hold of the folders at each moment."""

from __future__ import annotations

import functools
import shutil
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path

from soak_cases import OUT, OVER, Case, command, make_inputs
from soak_children import End, Fault, run_forked, tail
from soak_launched import run_launched
from soak_whole import below, broken, differing, state_of, whole_checkpoints

LIMIT = 60.0  # seconds until a child is taken for hung
LAUNCH_LIMIT = 240.0  # the same of real processes, which import everything first
MOST_TOLD = 6  # paths in a sentence
INPUTS = ("model", "anyres", "data", "lora", "anyres-lora", "official")
ENDS = {
    "kill": (-signal.SIGKILL,),
    "cut": (-signal.SIGXFSZ,),
    "full": (1,),
    "fail": (1,),
    "term": (-signal.SIGTERM, 128 + signal.SIGTERM),
    "int": (-signal.SIGINT, 128 + signal.SIGINT),
}  # the codes that a fault may end with, beside 0
GONE_NEW_CHANGED = ("gone", "new", "changed")


class Soak:
    """The folders of a soak, and the states of a case that are whole."""

    def __init__(self, home: Path):
        self.home, self.work, self.before = home, home / "work", home / "before"
        self.work.mkdir()
        make_inputs(home, self._lay_down)
        self.inputs = self.input_state()

    def input_state(self) -> dict[str, str]:
        """Return what the commands read, which none may change."""
        return {f"{name}/{path}": value for name in INPUTS for path, value in state_of(self.home / name).items()}

    def _lay_down(self, function) -> None:
        end = run_forked(function, home=self.home, watched=self.work, limit=10 * LIMIT)
        if end.code:
            raise SystemExit(f"the inputs cannot be made: exit code {end.code}\n{end.logs[0][-3000:]}")

    def call(self, case: Case, words: list[str], fault: Fault | None = None) -> End:
        """Run a command line to its end, or to where it is struck."""
        if case.is_launched:
            return run_launched(words, self.home, case.num_processes, LAUNCH_LIMIT, fault)
        options = {"home": self.home, "watched": self.work, "limit": LIMIT, "num_processes": case.num_processes}
        return run_forked(functools.partial(_command, words), fault=fault, **options)

    def begin(self, case: Case) -> Trial:
        """Make what stands there before, and the reference. Raises SystemExit where that fails without any fault."""
        shutil.rmtree(self.before, ignore_errors=True)
        self._empty()
        if case.earlier is not None or case.earlier_words:
            self._succeed(case, command(self.home, case, is_earlier=True))
        shutil.copytree(self.work, self.before, symlinks=True)
        old, words = state_of(self.work), command(self.home, case)
        sides = {"old": old} if old else {}
        if case.trains and "save_total_limit" in case.values:
            sides["kept"] = self._with_all_checkpoints(case)
        end = self._succeed(case, words)
        new = state_of(self.work)
        return Trial(self, case, words, {**sides, "new": new}, new, end.num_calls or 0, end.seconds)

    def _with_all_checkpoints(self, case: Case) -> dict[str, str]:
        """Return the whole checkpoints of a run that deletes none."""
        values = {key: value for key, value in case.values.items() if key != "save_total_limit"}
        other = replace(case, name=f"{case.name}-kept", values=values)
        self._succeed(other, command(self.home, other))
        state = state_of(self.work)
        self.restart()
        wholes = tuple(f"{checkpoint}/" for checkpoint in whole_checkpoints(state))
        return {path: value for path, value in state.items() if path.startswith(wholes)}

    def restart(self) -> None:
        """Bring the folder to where it was before the command."""
        self._empty()
        shutil.copytree(self.before, self.work, symlinks=True, dirs_exist_ok=True)

    def _empty(self) -> None:
        shutil.rmtree(self.work)
        self.work.mkdir()

    def _succeed(self, case: Case, words: list[str]) -> End:
        end = self.call(case, words)
        if end.code or end.is_hung:
            log = "\n".join(log[-3000:] for log in end.logs)
            raise SystemExit(f"{case.name} fails without any fault: {' '.join(words)} ends with {end.codes}\n{log}")
        return end


@dataclass
class Trial:
    """A case with its references.

    sides: states that are whole, by name; new: that of an uninterrupted run, to which num_calls and seconds belong.
    """

    soak: Soak
    case: Case
    words: list[str]
    sides: dict[str, dict[str, str]]
    new: dict[str, str]
    num_calls: int
    seconds: float
    planted: dict[str, str] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)

    def repeat(self) -> list[str]:
        """Run the command over its own finished output, where it may refuse but change nothing; return what it does."""
        self.soak.restart()
        self.found, self.planted = [], {}
        for _ in range(2):
            self._finish()
        return self.found

    def play(self, faults: list[Fault], is_continued: bool = False) -> list[str]:
        """Strike, start again, and return what does not hold. is_continued: first without overwrite_output_dir."""
        self.soak.restart()
        self.found, self.planted = [], {}
        for fault in faults:
            before = self.state()
            end = self.soak.call(self.case, self.words, fault)
            self._look_at_end(end, fault)
            self._look_at_whole(before)
            if end.code == 0 and fault.kind in ("full", "fail"):
                self._tell("it ended with 0, but", differing(self.state(), self.new))
            if not self.planted and whole_checkpoints(self.state()):
                self.planted = plant(self.soak.work)
        if is_continued:
            self._continue()
        self._finish()
        return self.found

    def state(self) -> dict[str, str]:
        """Return what is in the folder beside what was planted."""
        return {path: value for path, value in state_of(self.soak.work).items() if path not in self.planted}

    def _look_at_end(self, end: End, fault: Fault) -> None:
        if end.is_hung:
            self.found.append(f"hang: after {fault} it did not end in {LIMIT:.0f} s")
            return
        if self.case.num_processes > 1:
            if fault.rank is None:
                return  # whichever ends last loses its peer, which it may tell at length
            end = end.of(fault.rank)
        if end.has_traceback:
            self.found.append(f"traceback after {fault}: {tail(end)}")
        elif end.code not in (0, *ENDS[fault.kind]):
            self.found.append(f"exit code {end.codes} after {fault}: {tail(end)}")
        elif end.code and fault.kind in ("full", "fail") and not end.has_one_line:
            self.found.append(f"no line that begins with error: after {fault}: {tail(end)}")

    def _look_at_whole(self, before: dict[str, str]) -> None:
        state = self.state()
        self._tell("marked whole or loads:", broken(state, self.soak.work, self.case.output, self.sides))
        lost = whole_checkpoints(before) - whole_checkpoints(state)
        if lost and (self.case.is_kept or (self.case.earlier is None and not whole_checkpoints(state))):
            self.found.append(f"lost: {', '.join(sorted(lost))}")

    def _continue(self) -> None:
        """Go on with the new settings without overwrite_output_dir: from the new run's checkpoint, or not at all."""
        values = {key: value for key, value in self.case.values.items() if key not in OVER}
        other = replace(self.case, name=f"{self.case.name}-on", values=values)
        end = self.soak.call(other, command(self.soak.home, other))
        if end.code == 0:
            off = differing(below(self.state(), OUT), below(self.new, OUT))
            off = [text for text in off if not text.startswith("train_results.json")]  # it tells of the settings
            self._tell("without overwrite_output_dir it ended with 0, but", off)
        elif not end.has_one_line:
            self.found.append(f"without overwrite_output_dir it ended with {end.codes}: {tail(end)}")
        self._look_at_whole({})

    def _finish(self) -> None:
        """Run the same command to its end and compare everything with the run that was never struck."""
        output = self.case.output
        is_done = not differing(_output(self.state(), output), _output(self.new, output))
        end = self.soak.call(self.case, self.words)
        is_refused = end.code == 1 and end.has_one_line and is_done and not self.case.trains
        if end.code and not is_refused:
            self.found.append(f"started again it ended with {end.codes}: {tail(end)}")
        state, expected = self.state(), self.new
        if is_refused:
            state, expected = _output(state, output), _output(expected, output)
        self._tell("in the end", differing(state, expected))
        left = {path: value for path, value in state_of(self.soak.work).items() if path in self.planted}
        self._tell("not its own:", differing(left, self.planted, GONE_NEW_CHANGED))
        self._tell("an input:", differing(self.soak.input_state(), self.soak.inputs, GONE_NEW_CHANGED))

    def _tell(self, what: str, details: list[str]) -> None:
        if details:
            more = f" and {len(details) - MOST_TOLD} more" if len(details) > MOST_TOLD else ""
            self.found.append(f"{what} {'; '.join(details[:MOST_TOLD])}{more}")


def _output(state: dict[str, str], output: str) -> dict[str, str]:
    return {path: value for path, value in state.items() if path == output or path.startswith(f"{output}/")}


def _command(words: list[str]) -> int:
    from paddlemix.cli import main

    return main(words)


def plant(work: Path) -> dict[str, str]:
    """Lay things that are not the run's own beside and among its files; return their state."""
    before = state_of(work)
    for folder in ("checkpoint-best", "checkpoint-500"):  # neither is marked as whole
        (work / OUT / folder).mkdir()
        (work / OUT / folder / "model.safetensors").write_bytes(b"somebody's weights")
    (work / "elsewhere").mkdir()
    (work / "elsewhere/model.safetensors").write_bytes(b"somebody's other weights")
    (work / OUT / "checkpoint-7").symlink_to(work / "elsewhere")
    for name in ("notes.txt", "checkpoint-notes.txt"):
        (work / OUT / name).write_text("somebody's notes")
    return {path: value for path, value in state_of(work).items() if path not in before}
