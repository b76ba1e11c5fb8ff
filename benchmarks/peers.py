"""Two programs that take turns, each in a process of its own, so that neither disturbs the other's threads or memory.

A benchmark starts itself once for each role; the children answer requests, one JSON object a line, until their input
ends. What they print otherwise goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

OURS, THEIRS = ROLES = ("ours", "transformers")
KIBIBYTE = 1024  # the unit of VmHWM in /proc/PID/status


class Peer:
    """A child that answers requests. folder: of the model that it loads at its start."""

    def __init__(self, script: str, role: str, folder: str, threads: int):
        self.role = role
        command = [sys.executable, script, "--role", role, "--folder", folder, "--threads", str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.errors = Path(folder) / f"{role}.err"  # a pipe that nobody reads would fill up
        with self.errors.open("w") as errors:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, env=environment)

    def ask(self, **request) -> dict:
        """Return the answer to a request. Raises SystemExit with the child's last words where it has ended."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.role} failed:\n{self.errors.read_text(errors='replace')[-3000:]}")
        return json.loads(line)

    def peak_bytes(self) -> int:
        """Return the most memory that the child has had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) * KIBIBYTE

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def parse(description: str, add: Callable[[argparse.ArgumentParser], None] | None = None) -> argparse.Namespace:
    """Parse what every benchmark takes, and what `add` adds."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of both, in turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", default=None, help="of the model (default: a temporary one)")
    parser.add_argument("--role", choices=ROLES, default=None, help=argparse.SUPPRESS)
    if add:
        add(parser)
    return parser.parse_args()


def serve(answer: Callable[..., dict]) -> int:
    """Answer requests from standard input until it ends."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that nothing a library prints is taken for an answer
    for line in sys.stdin:
        channel.write(json.dumps(answer(**json.loads(line))) + "\n")
        channel.flush()
    return 0


def compare_peers(script: str, arguments, ours: Callable, theirs: Callable, compare: Callable, folder_of) -> int:
    """Be the side that --role names, or start both in a folder and compare them.

    ours, theirs: return what answers requests, see `serve`. compare: takes the peers by role, and the arguments.
    folder_of: a context manager that gives a folder with what both load, inside the one named by --folder.
    """
    if arguments.role:
        return serve({OURS: ours, THEIRS: theirs}[arguments.role](arguments))
    with folder_of(arguments.folder) as folder:
        peers = {role: Peer(script, role, str(folder), arguments.threads) for role in ROLES}
        compare(peers, arguments)
        for peer in peers.values():
            peer.close()
    return 0


def alternate(peers: dict[str, Peer], num_rounds: int, **request) -> dict[str, list[dict]]:
    """Ask all peers in each round, in an order that turns round; one round before is not counted."""
    answers: dict[str, list[dict]] = {role: [] for role in peers}
    for number in range(num_rounds + 1):
        for role in peers if number % 2 else reversed(peers):
            answer = peers[role].ask(**request)
            if number:
                answers[role].append(answer)
    return answers


def median(answers: list[dict], name: str = "seconds") -> float:
    return statistics.median(answer[name] for answer in answers)
