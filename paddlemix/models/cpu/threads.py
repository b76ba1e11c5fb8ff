"""Threads that each run all operations of a piece of work.

Paddle's operations on a CPU use one thread each, except for matrix products, which MKL spreads over all threads. If
there are several pieces of work of the same size, one thread for each piece is faster.
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

MAX_WORKERS = 16  # with more workers the pieces become too small


def num_workers() -> int:
    """Return how many pieces of work `in_parallel` runs at the same time; 1 if it cannot use threads."""
    number = min(num_threads(), MAX_WORKERS)
    return number if number > 1 and _mkl() is not None else 1


def in_parallel(work: Callable, pieces: Iterable) -> list:
    """Return the result of `work` for each piece, in order, without gradients. Its exceptions are raised here."""
    work = functools.partial(_without_gradients, work)
    if num_workers() == 1:
        return [work(piece) for piece in pieces]
    return list(_pool(os.getpid(), num_workers()).map(work, pieces))


def limit_threads(number: int) -> int:
    """Set how many threads MKL uses for the calling thread's products, 0 for all; return the number before."""
    return 0 if _mkl() is None else _mkl().MKL_Set_Num_Threads_Local(number)


def _without_gradients(work: Callable, piece):
    with paddle.no_grad():
        return work(piece)


@functools.cache
def _pool(process: int, number: int) -> ThreadPoolExecutor:
    """Return the threads of a process. A forked process does not have those of its parent."""
    return ThreadPoolExecutor(number, thread_name_prefix="paddlemix", initializer=_start)


def _start() -> None:
    paddle.set_device("cpu")
    _mkl().MKL_Set_Num_Threads_Local(1)


@functools.cache
def _mkl():
    """Return paddle's MKL library if it can limit the number of threads for the calling thread, else None."""
    for path in (Path(paddle.__file__).parent / "libs").glob("*mkl*"):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(str(path))
            library.MKL_Set_Num_Threads_Local.argtypes = [ctypes.c_int]
            return library
    return None
