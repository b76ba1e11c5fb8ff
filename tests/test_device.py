"""A thread computes as the thread that chose the device."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

import paddle
import pytest

from paddlemix.device import num_threads, use_device, use_device_in_thread


def test_thread_computes_with_as_many_threads_as_the_first_one():
    (library, *_) = [*Path(paddle.__file__).parent.glob("libs/libiomp5.so"), None]
    if library is None:
        pytest.skip("this build of paddle brings no OpenMP library of its own")
    use_device("cpu")
    counts = []

    def count():
        use_device_in_thread()
        counts.append(ctypes.CDLL(str(library)).omp_get_max_threads())

    thread = threading.Thread(target=count)
    thread.start()
    thread.join()
    assert counts == [num_threads()]
