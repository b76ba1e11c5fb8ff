"""`paddlemix serve` without a model: python fake_serve.py SECONDS OPTIONS, with the folders of both in PYTHONPATH."""

from __future__ import annotations

import sys

from fake_backend import FakeBackend

from paddlemix.cli import main
from paddlemix.serve.workers import pool


def fake_pool(options, limits, num_workers):
    """Return a backend that takes so many seconds for a piece; with -1 it cannot start, with -2 it starts forever."""
    seconds = float(sys.argv[1])
    if seconds == -2:
        return FakeBackend(start_seconds=3600)
    if seconds < 0:
        return FakeBackend(start_error=ValueError("the device is not there"))
    return FakeBackend(seconds=seconds)


if __name__ == "__main__":
    pool.Pool = fake_pool
    sys.exit(main(["serve", *sys.argv[2:]]))
