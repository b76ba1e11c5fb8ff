"""Many clients at once, with conversations about images: all are answered or told when to come again.

The environment variable PADDLEMIX_LOAD_SECONDS says for how long.
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from served_process import Served, served, until

sys.path[:0] = [str(Path(__file__).parents[2] / "benchmarks")]

from serve_clients import Tally, load  # noqa: E402
from serve_load import memory_of  # noqa: E402

NUM_CLIENTS = 64
SECONDS = float(os.environ.get("PADDLEMIX_LOAD_SECONDS", "12"))
WARM_SECONDS = 4.0
MAX_RUNNING, MAX_QUEUE = 8, 16
MAX_GROWTH = 1.1  # of the memory, last third to second third
QUESTION = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature": 0}

if not Path("/proc/self/stat").exists():
    pytest.skip("the memory of the server is found in /proc", allow_module_level=True)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    options = ("--max-running", str(MAX_RUNNING), "--max-queue", str(MAX_QUEUE), "--cache-gb", "0.05")
    with served(*options) as server:
        yield server
        assert not [line for line in server.log if "Traceback" in line], "\n".join(server.log)


def refusals(server: Served) -> dict[str, float]:
    """Return how many requests were refused, by reason."""
    text = server.ask(None, "/metrics")[1]
    found = re.findall(r'^paddlemix:rejected_total\{.*?reason="(\w+)".*?\} (\S+)$', text, re.MULTILINE)
    return {reason: float(number) for reason, number in found}


def run(server: Served, num_clients: int, seconds: float, seed: int) -> Tally:
    tally = asyncio.run(load(server.port, num_clients, seconds, seed))
    assert tally.errors == []
    return tally


def test_all_clients_are_answered_or_told_when_to_come_again_and_memory_stays_level(server):
    _, expected, _ = server.ask(QUESTION)
    assert run(server, MAX_RUNNING, WARM_SECONDS, seed=0).num_refused == 0  # there is a place for each
    with memory_of(server.process.pid) as samples:
        tally = run(server, NUM_CLIENTS, SECONDS, seed=1)
    assert tally.num_answers > NUM_CLIENTS and tally.first_tokens and tally.gaps
    assert tally.num_refused > 0  # more clients than places
    assert set(refusals(server)) == {"queue_full"} and refusals(server)["queue_full"] >= tally.num_refused
    third = len(samples) // 3
    assert statistics.median(samples[-third:]) <= MAX_GROWTH * statistics.median(samples[third : 2 * third])
    until(lambda: server.status()["num_running"] == server.status()["num_waiting"] == 0)
    assert server.ask(QUESTION)[1]["choices"] == expected["choices"]
