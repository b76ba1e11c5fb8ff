"""Watch the other machines of a run, so that none of them waits for a process that has ended.

`paddle.distributed.launch` ends the processes of its own machine when one of them fails, and knows nothing of the other
machines: their processes would wait in a collective for half an hour, or for ever.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from .. import __version__
from ..accelerators import version_of
from ..packages import import_path
from ..terminal.interrupts import Preempted
from .peer_hub import FAILED, MAX_TEXT, MISTAKE, STOPPED

VERDICT = 15  # seconds for the guard to find out whether another process is the reason for an error
PACKAGES = ("paddlepaddle", "paddlepaddle-gpu", "paddle-custom-npu", "paddlenlp")
RANK, LOCAL_RANK, NUM_NODES = "PADDLE_TRAINER_ID", "PADDLE_LOCAL_RANK", "PADDLE_NNODES"
ENDPOINTS, MASTER = "PADDLE_TRAINER_ENDPOINTS", "PADDLE_MASTER"


@contextlib.contextmanager
def watched_peers(settings: Mapping[str, Any]) -> Iterator[None]:
    """End this process, with a message, when one of another machine ends before the run does.

    Does nothing in a run on one machine. settings: the raw ones, which must be the same everywhere.
    """
    order = order_of(os.environ, settings)
    if order is None:
        yield
        return
    guard = start_guard(order)
    try:
        yield
    except ValueError as error:
        tell(guard, {"kind": MISTAKE, "text": str(error)[:MAX_TEXT]})
        raise
    except (Preempted, KeyboardInterrupt) as stop:
        tell(guard, {"kind": STOPPED, "text": str(stop) or "Ctrl-C"})
        raise
    except BaseException as error:
        # A collective fails when another process has ended, with a RuntimeError or (on cards) an OSError: then the
        # guard has the reason, and ends this one.
        text = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        tell(guard, {"kind": FAILED, "text": text[:MAX_TEXT]})
        with contextlib.suppress(subprocess.TimeoutExpired):
            guard.wait(VERDICT)
        raise
    tell(guard, {"bye": 1})


def order_of(environment: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a guard has to know, from the launcher's variables; None in a run on one machine."""
    endpoints = [text for text in environment.get(ENDPOINTS, "").split(",") if ":" in text]
    if int(environment.get(NUM_NODES) or 1) < 2 or len(endpoints) < 2:
        return None
    rank = int(environment[RANK])
    host, _, port = endpoints[-1].rpartition(":")
    named = "|".join([*endpoints, environment.get(MASTER, "")])
    return {
        "rank": rank,
        "first": rank - int(environment.get(LOCAL_RANK) or 0),
        "hosts": [text.rpartition(":")[0] for text in endpoints],
        "address": [host, int(port)],
        "token": hashlib.sha256(named.encode()).hexdigest(),
        "facts": {"settings": dict(settings), "versions": versions()},
        "worker": os.getpid(),
        "launcher": os.getppid(),
    }


def versions() -> dict[str, str]:
    """Return the versions that must be the same on all machines, by package, without importing it."""
    found = {"paddlemix": __version__, "python": ".".join(map(str, sys.version_info[:2]))}
    return found | {name: version for name in PACKAGES if (version := version_of(name)) is not None}


def start_guard(order: Mapping[str, Any]) -> subprocess.Popen:
    """Start the guard of this process. It has a session of its own: the launcher's signals go to whole groups."""
    guard = subprocess.Popen(
        [sys.executable, "-m", "paddlemix.train.peer_guard"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": import_path()},
        start_new_session=True,
    )
    # The guard sees the end of this process by the end of the pipe, which copies in readers of data would hold open.
    os.register_at_fork(after_in_child=guard.stdin.close)
    tell(guard, order)
    return guard


def tell(guard: subprocess.Popen, message: Mapping[str, Any]) -> None:
    """Send a message to the guard; without one the run goes on unwatched."""
    with contextlib.suppress(OSError):
        guard.stdin.write(json.dumps(message).encode() + b"\n")
        guard.stdin.flush()
