"""Run the package's scripts one after another in this process, which imports paddle once: JOBS.json RESULTS.json.

A job is {"script", "arguments", "typed"}: a file or a module of the package, its command line, and its standard input.
A result is {"code", "text"}: the exit code, and the text of standard output and standard error.
"""

from __future__ import annotations

import io
import json
import os
import runpy
import sys
import tempfile
import traceback
from pathlib import Path


def run_job(script: str, arguments: list[str], typed: str) -> dict[str, object]:
    """Run one script like a program. File descriptors are redirected, because loggers keep their streams."""
    with tempfile.TemporaryFile("w+") as log:
        kept = [os.dup(number) for number in (1, 2)]
        sys.argv, sys.stdin, code = [script, *arguments], io.StringIO(typed), 0
        for number in (1, 2):
            os.dup2(log.fileno(), number)
        try:
            if script.endswith(".py"):
                runpy.run_path(script, run_name="__main__")
            else:
                runpy.run_module(script, run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        except Exception:
            traceback.print_exc()
            code = "exception"
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in enumerate(kept, start=1):
            os.dup2(before, number)
            os.close(before)
        log.seek(0)
        return {"code": code or 0, "text": log.read()}


if __name__ == "__main__":
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    target = Path(sys.argv[2])
    results = {}
    for name, job in jobs.items():
        results[name] = run_job(**job)
        target.write_text(json.dumps(results), encoding="utf-8")
