"""Work that is shared among the CPU's threads, each of which computes operations of its own.

Paddle's operations on a CPU use one thread each, but for matrix products, which MKL shares among all. Where there are
several pieces of work of the same size it is faster to give each piece to a thread, with all of its operations.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paddle

from ...device import num_threads

MAX_WORKERS = 16  # with more of them, pieces become too small


def num_workers() -> int:
    """Return how many pieces of work `in_parallel` does at once on the CPU; 1 where it cannot."""
    number = min(num_threads(), MAX_WORKERS)
    return number if number > 1 and _mkl() is not None else 1


def in_parallel(work: Callable, pieces: Iterable) -> list:
    """Return what work returns for each piece, in order, without gradients. What it raises is raised here."""
    work = functools.partial(_without_gradients, work)
    if num_workers() == 1:
        return [work(piece) for piece in pieces]
    return list(_pool(os.getpid(), num_workers()).map(work, pieces))


def _without_gradients(work: Callable, piece):
    with paddle.no_grad():
        return work(piece)


@functools.cache
def _pool(process: int, number: int) -> ThreadPoolExecutor:
    """Return the threads of a process: those of the one that it was forked from are not there."""
    return ThreadPoolExecutor(number, thread_name_prefix="paddlemix", initializer=_start)


def _start() -> None:
    paddle.set_device("cpu")
    _mkl().MKL_Set_Num_Threads_Local(1)


@functools.cache
def _mkl():
    """Return the library of paddle's matrix products if it can be told how many threads each thread of ours gets."""
    for path in (Path(paddle.__file__).parent / "libs").glob("*mkl*"):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(str(path))
            library.MKL_Set_Num_Threads_Local.argtypes = [ctypes.c_int]
            return library
    return None
