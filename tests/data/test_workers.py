"""Map in a thread or in processes: in order, with errors raised, and stopped at once by Ctrl-C."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from paddlemix.data.workers import map_in_processes, map_in_thread

ROOT = Path(__file__).resolve().parents[2]
BOUND = 10  # seconds for what happens at once, on a busy machine; the work would take at least 30
WAYS = {
    "thread": lambda function, items: map_in_thread(function, items),
    "fork": lambda function, items: map_in_processes(function, items, num_processes=2, method="fork"),
    "spawn": lambda function, items: map_in_processes(function, items, num_processes=2, method="spawn"),
}


@pytest.mark.parametrize("way", WAYS)
def test_results_equal_those_of_map_in_order(way):
    numbers = [1, 4, 9, 16, 25, 36, 49]
    assert list(WAYS[way](math.sqrt, numbers)) == list(map(math.sqrt, numbers))
    assert list(WAYS[way](math.sqrt, [])) == []


@pytest.mark.parametrize("way", ["thread", "fork"])
def test_large_results_and_large_items_do_not_deadlock(way):
    texts = [letter * 3_000_000 for letter in "abcdefg"]
    assert list(WAYS[way](str.upper, texts)) == [text.upper() for text in texts]


@pytest.mark.parametrize("way", WAYS)
def test_error_of_the_function_is_raised_in_place_of_its_result(way):
    results = WAYS[way](math.sqrt, [1, -1, 4])
    assert next(results) == 1
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        next(results)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("way", ["thread", "fork"])
def test_no_thread_or_process_is_left_after_an_early_close(way):
    before = set(threading.enumerate())
    results = WAYS[way](time.sleep, [0, 0, 30, 30] if way == "fork" else [0] * 9)
    next(results)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < BOUND and not multiprocessing.active_children()
    for thread in set(threading.enumerate()) - before:
        thread.join(BOUND)
        assert not thread.is_alive()


def test_result_that_cannot_be_pickled_is_an_error_and_does_not_hang():
    with pytest.raises(RuntimeError, match="pickle"):
        list(WAYS["fork"](lambda item: threading.Lock(), [1]))


def test_process_that_dies_is_one_error(tmp_path):
    with pytest.raises(ChildProcessError, match="ended with exit code 7"):
        list(WAYS["fork"](os._exit, [7]))


WAITER = """
import sys
sys.path.insert(0, {tests!r})
from test_workers import WAYS, wait
if __name__ == "__main__":
    way, mark = sys.argv[1:]
    try:
        list(WAYS[way](wait, [mark] * 3))
    except KeyboardInterrupt:
        sys.exit(130)
"""


def wait(mark: str) -> None:
    """Report that the work has begun, and work for a minute."""
    Path(f"{mark}-{os.getpid()}").touch()
    time.sleep(60)


def members(group: int) -> list[str]:
    """Return the processes of a group that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


def wait_until(is_true, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("way", "number", "is_group"),
    [
        ("thread", signal.SIGINT, True),
        ("fork", signal.SIGINT, True),
        ("fork", signal.SIGINT, False),
        ("spawn", signal.SIGINT, True),
        ("fork", signal.SIGTERM, True),
        ("fork", signal.SIGKILL, False),
        ("spawn", signal.SIGKILL, False),
    ],
)
def test_signal_ends_all_processes_at_once_without_a_traceback(way, number, is_group, tmp_path):
    script = tmp_path / "waiter.py"
    script.write_text(WAITER.format(tests=str(Path(__file__).parent)))
    process = subprocess.Popen(
        [sys.executable, str(script), way, str(tmp_path / "mark")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    wait_until(lambda: len(list(tmp_path.glob("mark-*"))) == (1 if way == "thread" else 2))
    started = time.monotonic()
    (os.killpg if is_group else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=600)
    assert time.monotonic() - started < BOUND
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert errors == ""
    wait_until(lambda: not members(process.pid), 2)
