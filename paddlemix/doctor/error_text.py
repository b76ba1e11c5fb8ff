"""The errors of libraries in one line. Needs no paddle."""

from __future__ import annotations

import re
import signal

from ..accelerators import STATIC_TLS, explanation

MAX_LENGTH = 300
# Paddle's kinds of error, Ascend's codes (EZ9999, EE1001, E39999), and messages of the loader and the kernel.
INFORMATIVE = re.compile(
    r"\w*Error\b|\bE[A-Z0-9]\d{4}\b|\bACL\w* error|cannot open shared object|cannot allocate|[Oo]ut of memory"
    "|terminate called"
)
# C++ and Python frames, and the lines that paddle prints after every abort.
FRAME = re.compile(
    r"^\s*(\d+ {2,}|File \"|at |#\d|Traceback|C\+\+|-{5}|\[(TimeInfo|SignalInfo)|FatalError: `|Error Message Summary)"
)
CAUSES = {
    "SIGILL": "the processor lacks instructions that paddle or a library was built with (AVX on x86)",
    "SIGKILL": "something killed it, usually the system because it ran out of memory: see `dmesg`",
}


def one_line(text: str) -> str:
    """Return the explanation of an error of loading, or else the most informative line of a message."""
    known = explanation(text)
    if known is not None:
        return known
    lines = [line.strip() for line in text.splitlines() if line.strip() and not FRAME.match(line)]
    informative = [line for line in lines if INFORMATIVE.search(line)]
    chosen = (informative or lines or ["without a message"])[-1]
    return chosen if len(chosen) <= MAX_LENGTH else f"{chosen[: MAX_LENGTH - 3]}..."


def of_error(error: BaseException) -> str:
    """Return the text of an exception; this project's own errors are whole sentences already."""
    if isinstance(error, ValueError) and "\n" not in str(error):
        return str(error)
    line = one_line(str(error))
    return line if "Error" in line or explanation(str(error)) else f"{type(error).__name__}: {line}"


def library_to_preload(text: str) -> str | None:
    """Return the library that an ARM machine failed to load late, None for another kind of error."""
    found = STATIC_TLS.search(text)
    return found.group(1) if found else None


def of_end(code: int, log: str) -> str:
    """Return how a process ended, and the most informative line of its log."""
    if code >= 0:
        return f"the process ended with code {code}: {one_line(log)}"
    name = signal.Signals(-code).name
    return f"the process was ended by {name}: {CAUSES.get(name) or one_line(log)}"
