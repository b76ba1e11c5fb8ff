"""Run a command line in forked child processes and inject a fault at a chosen moment.

The parent has imported the package but computed nothing, so a fork behaves like a fresh process and starts in less than
a second. A child counts its changes to files below a folder: opening for writing, renaming, removing, creating folders.
A fault occurs just before one of these calls, or after a given time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from soak_processes import environments_of, join

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {"os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.symlink": 2, "os.link": 2}  # num_paths
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
GRACE = 1.0  # seconds from SIGTERM to SIGKILL for a process whose peer has exited, as a launcher does
POLL = 0.005  # seconds between polls
TRACEBACK = "Traceback (most recent call last)"
LEAK = 101  # exit status of a child whose command raised


@dataclass(frozen=True)
class Fault:
    """A fault that is injected into a child.

    kind: "kill", "term" or "int": a signal; "cut": killed within the first write that makes a file longer than
    num_bytes; "full": files can no longer grow or be created; "fail": one call fails. call: the number of the call,
    from 1, at which the fault occurs or starts; None: a signal `after` seconds. rank: of the affected process, None
    for all.
    """

    kind: str
    call: int | None = None
    after: float = 0.0
    num_bytes: int = 0
    rank: int | None = None

    def __str__(self) -> str:
        moment = f"after {self.after:.2f} s" if self.call is None else f"at call {self.call}"
        size = f", files of {self.num_bytes} bytes" if self.kind == "cut" else ""
        return f"{self.kind} {moment}{size}" + ("" if self.rank is None else f", process {self.rank}")


@dataclass(frozen=True)
class End:
    """How the processes of a command ended.

    codes: exit codes, -N for signal N. logs: the output of each process. num_calls: of the first process, None if it
    was killed.
    """

    codes: tuple[int, ...]
    logs: tuple[str, ...]
    is_hung: bool
    num_calls: int | None = None
    seconds: float = 0.0

    @property
    def code(self) -> int:
        """The first code that is not 0, or else 0."""
        return next((code for code in self.codes if code), 0)

    def of(self, rank: int) -> End:
        """Return the end of one of the processes."""
        return End((self.codes[rank],), (self.logs[rank],), self.is_hung)

    @property
    def has_traceback(self) -> bool:
        return any(code == LEAK or TRACEBACK in log for code, log in zip(self.codes, self.logs, strict=True))

    @property
    def has_one_line(self) -> bool:
        """Whether a process that exited with 1 printed an error as its last line."""
        return any(
            code == 1 and last_line(log).startswith("error: ") for code, log in zip(self.codes, self.logs, strict=True)
        )


def last_line(log: str) -> str:
    """Return the last non-empty line of a log."""
    return next((line for line in reversed(log.splitlines()) if line.strip()), "")


def tail(end: End) -> str:
    """Return the last line of each process for a report, with the source lines of a traceback."""
    return " | ".join(f"{_place(log)}{last_line(log)[-300:]}" for log in end.logs if log.strip())


def _place(log: str) -> str:
    places = [line.strip() for line in log.partition(TRACEBACK)[2].splitlines() if line.startswith("  File ")]
    return " < ".join([*reversed(places[-3:]), ""])


def run_forked(
    command: Callable[[], int],
    *,
    folder: Path,
    watched: Path,
    limit: float,
    fault: Fault | None = None,
    num_processes: int = 1,
    max_memory: int | None = None,
) -> End:
    """Run a command in forked processes, in `folder`.

    watched: the folder in which changes are counted. limit: seconds after which the processes count as hung.
    max_memory: bytes of address space.
    """
    start = time.monotonic()
    environments = environments_of(num_processes)
    children = []
    for rank, environment in enumerate(environments):
        own_fault = fault if fault is None or fault.rank in (None, rank) else None
        children.append(_Child(command, folder, watched, own_fault, environment, max_memory))
    is_hung = _wait(children, start, limit, fault)
    for child in children:
        child.end_group()
    outputs = [_without_count(child.text()) for child in children]
    codes, logs = tuple(child.code for child in children), tuple(log for log, _ in outputs)
    return End(codes, logs, is_hung, outputs[0][1], time.monotonic() - start)


class _Child:
    """One forked process. Its output goes through a pipe, which limits on file sizes do not affect."""

    def __init__(self, command, folder, watched, fault, environment, max_memory):
        sys.stdout.flush()
        sys.stderr.flush()
        self.pipe, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self.pipe)
            _be_child(command, folder, watched, fault, environment, max_memory, writing)
        os.close(writing)
        os.set_blocking(self.pipe, False)
        self.code: int | None = None
        self._said: list[bytes] = []

    def poll(self) -> None:
        """Read new output, and the exit code if the process has ended."""
        self._read()
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                self._read()

    def send_signal(self, number: int) -> None:
        if self.code is None:
            os.kill(self.pid, number)

    def end_group(self) -> None:
        """Kill remaining processes, such as loader workers."""
        with contextlib.suppress(ProcessLookupError):  # nothing is left
            os.killpg(self.pid, signal.SIGKILL)
        os.close(self.pipe)

    def text(self) -> str:
        return b"".join(self._said).decode(errors="replace")

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self.pipe, 1 << 16)
            except BlockingIOError:
                return
            if not piece:
                return
            self._said.append(piece)


def _wait(children: Sequence[_Child], start: float, limit: float, fault: Fault | None) -> bool:
    """Wait until all have ended, and send the fault's signal in time; return whether the limit was exceeded."""
    due = fault.after if fault is not None and fault.call is None else None
    kill_time = None
    while True:
        for child in children:
            child.poll()
        if all(child.code is not None for child in children):
            return False
        passed = time.monotonic() - start
        if due is not None and passed >= due:
            due = None
            for child in children if fault.rank is None else [children[fault.rank]]:
                child.send_signal(SIGNALS[fault.kind])
        if kill_time is None and any(child.code for child in children):
            kill_time = passed + GRACE
            for child in children:
                child.send_signal(signal.SIGTERM)
        if passed > limit or (kill_time is not None and passed > kill_time):
            for child in children:
                child.send_signal(signal.SIGKILL)
            if passed > limit:
                return True
        time.sleep(POLL)


def _be_child(command, folder, watched, fault, environment, max_memory, pipe) -> None:
    """Run the command and exit."""
    code = LEAK
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # until the command starts
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(pipe, 1)
        os.dup2(pipe, 2)
        # The parent's streams may be files, whose positions Python remembers.
        sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in enumerate(("r", "w", "w")))  # noqa: SIM115
        os.chdir(folder)
        os.environ.update(environment)
        join(environment)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if max_memory is not None:
            resource.setrlimit(resource.RLIMIT_AS, (max_memory, max_memory))
        count = _inject_at_call(fault, watched)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = command()
        print(f"\n{COUNT}{count()}")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # a user would see a traceback
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 0xFF)


COUNT = "calls counted: "


def _without_count(log: str) -> tuple[str, int | None]:
    """Return the log without the lines of counts, and the first count."""
    lines = log.splitlines()
    counts = [int(line.removeprefix(COUNT)) for line in lines if line.startswith(COUNT)]
    return "\n".join(line for line in lines if not line.startswith(COUNT)), counts[0] if counts else None


def _inject_at_call(fault: Fault | None, watched: Path) -> Callable[[], int]:
    """Count the calls that change files below a folder, and inject the fault at its call; return a counter."""
    root, num_calls = str(watched), 0
    kind, call = (None, None) if fault is None else (fault.kind, fault.call)
    if kind == "cut":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it by default and the write fails instead

    def hook(event: str, arguments: tuple) -> None:
        nonlocal num_calls
        if not _is_change(event, arguments, root):
            return
        num_calls += 1
        if call is None or num_calls < call:
            return
        if kind == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            if event in ("open", "os.mkdir"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))
        elif num_calls > call:
            return
        elif kind == "fail":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(arguments[0]))
        elif kind == "cut":
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault.num_bytes, fault.num_bytes))
        else:
            os.kill(os.getpid(), SIGNALS[kind])

    sys.addaudithook(hook)
    return lambda: num_calls


def _is_change(event: str, arguments: tuple, root: str) -> bool:
    """Return whether an audited call changes files below a folder, given by absolute or relative path."""
    if event == "open":
        path, _, flags = arguments
        return isinstance(flags, int) and bool(flags & WRITES) and _is_below(path, root)
    num_paths = CHANGES.get(event, 0)
    return any(_is_below(path, root) for path in arguments[:num_paths])


def _is_below(path, root: str) -> bool:
    if isinstance(path, int):
        return False
    text = os.fsdecode(path)
    return text.startswith(root) or not os.path.isabs(text)
