"""Runs the loops of `row_kernels` on the threads of paddle's OpenMP library.

The loops are compiled by numba, an optional package, but without its threads: MKL's products run on those of OpenMP.
Threads of another library would have to be woken for every loop, and those of MKL, which wait in a loop of their own
for 200 ms after a product, would take their cores. A forked process has none of its parent's threads and can wait for
them forever, so that it uses one thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import paddle

PROCESS = os.getpid()  # that may use threads
SMALL = 1 << 15  # multiplications up to which a second thread does not pay


@functools.cache
def has_numba() -> bool:
    """Return whether loops can be compiled."""
    return importlib.util.find_spec("numba") is not None


def num_threads() -> int:
    """Return how many threads MKL uses for a product in the calling thread; 1 if a loop cannot use threads."""
    limit = _thread_limit()
    return 1 if limit is None or _parallel() is None or os.getpid() != PROCESS else limit()


def threads_for(work: int) -> int:
    """Return in how many threads to run a loop of this many multiplications."""
    return num_threads() if work > SMALL else 1


def run(loop: str, sizes: Sequence[int], addresses: Sequence[int], threads: int) -> None:
    """Run a loop of `row_kernels`, which it compiles at first, in this number of threads.

    sizes, addresses: see the values of a job in `row_kernels`. Requires numba.
    """
    address, call, job_type = _compiled(loop)
    job = job_type(0, 0, threads, *sizes, *addresses)
    if threads == 1:
        call(ctypes.addressof(job))
    else:
        _parallel()(address, ctypes.addressof(job), threads, 0)


@functools.cache
def _compiled(loop: str) -> tuple:
    """Return a loop's address, a function that calls it in this thread, and the type of its jobs."""
    from .row_kernels import SIZE, address_of

    address = address_of(loop)
    return address, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address), ctypes.c_int64 * SIZE


@functools.cache
def _parallel():
    """Return the function of OpenMP that runs a function in several threads, or None without the library."""
    return _function("libiomp5*", "GOMP_parallel", [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint])


@functools.cache
def _thread_limit():
    """Return MKL's function for the number of threads, which `models/cpu/threads.py` sets for each of its workers."""
    return _function("libmkl*", "MKL_Get_Max_Threads", [])


def _function(pattern: str, name: str, arguments: list):
    """Return a function of one of the libraries in paddle's wheel, or None."""
    for path in sorted((Path(paddle.__file__).parent / "libs").glob(pattern)):
        with contextlib.suppress(OSError, AttributeError):
            function = getattr(ctypes.CDLL(str(path)), name)
            function.argtypes = arguments
            return function
    return None
