"""The speed of this machine at copying memory and multiplying matrices, which limits every program."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle

COPY_BYTES = 256 << 20  # far more than any processor's cache
SIDES = (512, 1024, 2048, 4096, 8192)  # of square matrices
LONG_ENOUGH = 0.02  # seconds that a product must take to be measured well


def copy_speed(num_rounds: int, num_threads: int = 1, num_bytes: int = COPY_BYTES) -> float:
    """Return the bytes a second that the current device copies, counting bytes read and bytes written."""
    if paddle.get_device().startswith("cpu"):
        return 2 * num_bytes / median_seconds(_host_copy(num_bytes, num_threads), num_rounds)
    source = paddle.ones([num_bytes // 4], dtype="float32")

    def copy() -> None:
        finish(paddle.assign(source))

    return 2 * num_bytes / median_seconds(copy, num_rounds)


def _host_copy(num_bytes: int, num_threads: int) -> Callable[[], None]:
    """Return a function that copies on the host with all threads; paddle's own copies use one."""
    source, target = (np.ones(num_bytes, np.uint8) for _ in range(2))
    parts = list(zip(np.array_split(target, num_threads), np.array_split(source, num_threads), strict=True))
    workers = ThreadPoolExecutor(num_threads)
    return lambda: list(workers.map(lambda part: np.copyto(*part), parts)) and None


def matrix_speed(dtype: str, num_rounds: int, sides: tuple[int, ...] = SIDES) -> float:
    """Return the floating-point operations a second of products of square matrices."""
    best = 0.0
    for side in sides:
        first = paddle.ones([side, side], dtype="float32").astype(dtype)
        second = first + first

        def multiply(first=first, second=second) -> None:
            finish(paddle.matmul(first, second))

        seconds = median_seconds(multiply, num_rounds)
        best = max(best, 2 * side**3 / seconds)
        if seconds >= LONG_ENOUGH:
            break
    return best


def median_seconds(work: Callable[[], object], num_rounds: int) -> float:
    """Return the median time of `work`, after one round that does not count."""
    seconds = []
    for _ in range(num_rounds + 1):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def finish(tensor) -> None:
    """Wait until a tensor is computed."""
    tensor.flatten()[:1].numpy()
