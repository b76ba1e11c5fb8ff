"""Prepare the environment before paddle is imported, keep all tests off the network's hubs, and share the cores."""

import os
import signal

import pytest

from paddlemix.device import prepare_environment

MAX_PROCESSES = 4  # of `-n auto`; each takes up to 3 GB


@pytest.hookimpl(optionalhook=True)  # pytest-xdist may not be installed
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes share the tests with `-n auto`: one for each core, but not too many for the memory."""
    return min(num_cores(), MAX_PROCESSES)


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


os.environ["PADDLEMIX_OFFLINE"] = "1"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell starts a command in the background. Processes that tests interrupt would inherit it and go on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Processes that share the tests share the cores too: more threads than cores would wait for each other. The environment
# is that of pytest's main process, in which the number is that of all cores.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = max(num_cores() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]), 1)
    os.environ["PADDLEMIX_NUM_THREADS"] = os.environ.setdefault("OMP_NUM_THREADS", str(share))
prepare_environment("cpu")
