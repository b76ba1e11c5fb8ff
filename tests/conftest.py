"""Prepare the environment before paddle is imported, keep all tests off the network's hubs, and share the cores."""

import os
import signal

import pytest

from paddlemix.device import prepare_environment

MAX_PROCESSES = 4  # of `-n auto`; each takes up to 3 GB
# The files that take a minute or more on two cores, most of it in one or a few tests; longest first.
LONGEST = (
    "test_digits.py",
    "test_runs.py",
    "test_several_nodes.py",
    "test_data_parallel.py",
    "test_cards_end.py",
    "test_cards.py",
    "test_bundled_model.py",
    "test_nodes.py",
    "test_scripts_on_npu.py",
    "test_readme.py",
    "test_strict.py",
    "test_tensor_parallel.py",
    "test_workers.py",
    "test_soak.py",
    "test_doctor_on_npu.py",
    "test_end_to_end.py",
    "test_eval_page.py",
    "test_load.py",
    "test_delta.py",
    "test_prepare_cache.py",
    "test_eval_tasks.py",
    "test_bad_samples.py",
)


@pytest.hookimpl(optionalhook=True)  # pytest-xdist may not be installed
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes share the tests with `-n auto`: one for each core, but not too many for the memory."""
    return min(num_cores(), MAX_PROCESSES)


def pytest_configure(config: pytest.Config) -> None:
    """Keep the order of `pytest_collection_modifyitems`: pytest-xdist begins with the files of the most tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: a process that has none left would wait for one that came last."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


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
