"""Work that a foreign file asks for, in a process of its own: it cannot hang this one, end it or take its memory."""

from __future__ import annotations

import subprocess
import sys

MAX_SECONDS, MAX_WAIT = 2, 20  # of a processor's time, and of waiting where a system knows no such limit
MAX_MEMORY, MAX_OUTPUT = 1 << 30, 1 << 20  # bytes and characters


def run_limited(module: str, request: str) -> str:
    """Return what a module's `main` writes to standard output for a request on standard input.

    Raises ValueError if that takes too much time or memory, or ends the process.
    """
    command = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import _work; _work({module!r})"
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", command], input=request, capture_output=True, text=True, timeout=MAX_WAIT
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"it takes longer than {MAX_WAIT} s") from None
    except OSError as error:
        raise ValueError(f"no process to try it in could be started: {error}") from None
    if done.returncode != 0 or len(done.stdout) > MAX_OUTPUT:
        raise ValueError("it takes too much time or memory")
    return done.stdout


def _work(module: str) -> None:
    from importlib import import_module

    _limit_resources()
    import_module(module).main()


def _limit_resources() -> None:
    try:
        import resource
    except ImportError:  # there are none on Windows, where the time limit of the caller has to do
        return
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
