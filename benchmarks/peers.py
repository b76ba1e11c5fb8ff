"""Processes that hold a model and are asked in turn, so that rivals are timed pair by pair on the same machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

MARK = "@answer "  # what libraries print to the same pipe does not start so


class Peer:
    """A child process `python script arguments` that runs `serve`. Raises SystemExit when it ends unasked."""

    def __init__(self, script: str, *arguments: str, threads: int):
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PADDLEMIX_NUM_THREADS": str(threads)}
        command = [sys.executable, script, *arguments]
        self.name = " ".join(command[1:])
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._answer()  # its model is loaded

    def ask(self, **task) -> dict:
        """Send a task and wait for its result."""
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict:
        for line in self.process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        raise SystemExit(f"{self.name} ended with exit code {self.process.wait()}")


def serve(run: Callable[..., dict]) -> int:
    """Answer tasks from standard input with run(**task), until there are none."""
    print(MARK + "{}", flush=True)
    for line in sys.stdin:
        print(MARK + json.dumps(run(**json.loads(line))), flush=True)
    return 0
