"""Run work that depends on a foreign file in a separate process: it cannot hang or crash this one."""

from __future__ import annotations

import importlib
import resource
import subprocess
import sys

MAX_SECONDS, MAX_WAIT = 2, 20  # of processor time, and of waiting for a process that sleeps
MAX_MEMORY, MAX_OUTPUT = 1 << 30, 1 << 20  # bytes and characters


def run_limited(module: str, request: str) -> str:
    """Return the standard output of a module's `main` for a request on standard input.

    Raises ValueError if it needs too much time or memory, or crashes.
    """
    command = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import _work; _work({module!r})"
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", command], input=request, capture_output=True, text=True, timeout=MAX_WAIT
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"it takes longer than {MAX_WAIT} s") from None
    except OSError as error:
        raise ValueError(f"no process could be started to try it: {error}") from None
    if done.returncode != 0 or len(done.stdout) > MAX_OUTPUT:
        raise ValueError("it takes too much time or memory")
    return done.stdout


def _work(module: str) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    importlib.import_module(module).main()
