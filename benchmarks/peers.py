"""Two programs that alternate in separate processes, so that neither disturbs the other's threads or memory.

A benchmark starts itself once for each role. The children answer requests, one JSON object per line, until their input
ends. Everything else they print goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
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
    """A child process that answers requests. folder: of the model that it loads at startup. python: its interpreter."""

    def __init__(self, script: str, role: str, folder: str, threads: int, python: str = sys.executable):
        self.role = role
        command = [python, script, "--role", role, "--folder", folder, "--threads", str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.errors = Path(folder) / f"{role}.err"  # a pipe without a reader would fill up
        with self.errors.open("w") as errors:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, env=environment)

    def ask(self, **request) -> dict:
        """Return the answer to a request. Raises SystemExit with the end of the child's errors if it has exited."""
        with contextlib.suppress(BrokenPipeError):  # of a child that has exited: its errors say more
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.role} failed:\n{self.errors.read_text(errors='replace')[-3000:]}")
        return json.loads(line)

    def peak_bytes(self) -> int:
        """Return the child's peak memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) * KIBIBYTE

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def parse(
    description: str, add: Callable[[argparse.ArgumentParser], None] | None = None, roles: tuple[str, ...] = ROLES
) -> argparse.Namespace:
    """Parse the common options of the benchmarks and those that `add` adds."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of both, in turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", default=None, help="of the model (default: a temporary one)")
    parser.add_argument("--role", choices=roles, default=None, help=argparse.SUPPRESS)
    if add:
        add(parser)
    return parser.parse_args()


def serve(answer: Callable[..., dict]) -> int:
    """Answer requests from standard input until it ends."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keep the output of libraries out of the answers
    for line in sys.stdin:
        channel.write(json.dumps(answer(**json.loads(line))) + "\n")
        channel.flush()
    return 0


def compare_peers(script: str, arguments, ours: Callable, theirs: Callable, compare: Callable, folder_of) -> int:
    """Serve as the side that --role names, or start both sides and compare them.

    ours, theirs: return a function that answers requests, see `serve`. compare: takes the peers by role and the
    arguments. folder_of: a context manager that creates a folder, inside --folder, with the model or data of both.
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
    """Ask all peers in each round, in alternating order; a warm-up round is not counted."""
    answers: dict[str, list[dict]] = {role: [] for role in peers}
    for number in range(num_rounds + 1):
        for role in peers if number % 2 else reversed(peers):
            answer = peers[role].ask(**request)
            if number:
                answers[role].append(answer)
    return answers


def print_processor(arguments) -> None:
    """Print on what the sides are compared."""
    from paddlemix.doctor.machine import num_cores, processor, vector_flags

    flags = " ".join(vector_flags())
    print(f"{processor()}, {num_cores()} cores ({arguments.threads} threads), {flags}", flush=True)


def median(answers: list[dict], name: str = "seconds") -> float:
    return statistics.median(answer[name] for answer in answers)
