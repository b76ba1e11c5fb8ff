"""Run a Python script in a separate process and measure its time and peak resident memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass

KIBIBYTE = 1024  # the unit of ru_maxrss on Linux


@dataclass(frozen=True)
class Cost:
    """The cost of a child process. output: its standard output."""

    seconds: float
    peak_bytes: int
    output: str


def run_child(script: str, *arguments: str) -> Cost:
    """Run `python script arguments`; raise SystemExit if it fails.

    A child starts with its parent's memory, so the parent must stay small for the peak to be the child's.
    """
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{script} {' '.join(arguments)} failed with exit code {process.returncode}")
    return Cost(time.monotonic() - start, usage.ru_maxrss * KIBIBYTE, output)
