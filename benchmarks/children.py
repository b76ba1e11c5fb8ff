"""Run a program in a separate process and measure its time and peak resident memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

KIBIBYTE = 1024  # the unit of ru_maxrss on Linux


@dataclass(frozen=True)
class Cost:
    """The cost of a child process. output: its standard output. processor_seconds: of all its threads together."""

    seconds: float
    peak_bytes: int
    output: str
    processor_seconds: float


def run_child(script: str, *arguments: str) -> Cost:
    """Run `python script arguments`; raise SystemExit if it fails."""
    return run_command([sys.executable, script, *arguments])


def run_command(
    command: Sequence[str], errors: Path | None = None, environment: Mapping[str, str] | None = None
) -> Cost:
    """Run a command; raise SystemExit if it fails. errors: a file for its standard error, None to pass it on.

    A child starts with its parent's memory, so the parent must stay small for the peak to be the child's. It ends when
    this process is interrupted.
    """
    start = time.monotonic()
    with open(errors, "wb") if errors else contextlib.nullcontext() as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment)
        try:
            output = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:  # the caller may remove the files that the child writes
            process.kill()
            process.wait()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said = f":\n{output[-2000:]}{errors.read_text(errors='replace')[-3000:]}" if errors else ""
        raise SystemExit(f"{' '.join(command[1:])} failed with exit code {process.returncode}{said}")
    times = usage.ru_utime + usage.ru_stime
    return Cost(time.monotonic() - start, usage.ru_maxrss * KIBIBYTE, output, times)
