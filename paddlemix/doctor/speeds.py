"""How fast a device multiplies and copies. It shows whether the device works as it should; it is not a benchmark."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import paddle

from .. import device as devices
from ..terminal.sizes import plural
from .check import Check

SIZES = (512, 1024, 2048, 4096, 8192)
MIN_SECONDS = 0.02  # of a measurement: a shorter one would measure the calls
MAX_SECONDS = 0.3  # of one product: the next size takes eight times as long
NUM_COPIED = 16 << 20  # float32 numbers
REPEATS = 3


def check_speed(check: Check, device: str) -> None:
    """Time matrix products in each dtype, a tiny operation, and copies; compare the copied values."""
    on_cpu = _products("float32", "cpu") if not device.startswith("cpu") else None
    fastest = 0.0
    for dtype in devices.DTYPES:
        print(f"== speed {dtype}", flush=True)
        if devices.can_compute(dtype, device):
            size, rate = _products(dtype, device)
            fastest = max(fastest, rate)
            check.values[f"{dtype} TFLOP/s"] = round(rate, 3)
            check.say(f"matrix product in {dtype}: {rate:,.2f} TFLOP/s ({size} x {size})")
    paddle.set_device(device)
    x = paddle.ones([8])
    latency = _seconds(lambda: x + x)
    check.values["microseconds an operation"] = round(latency * 1e6, 1)
    check.say(f"{plural(round(latency * 1e6), 'microsecond')} for a tiny operation")
    _check_copies(check, device)
    if on_cpu is not None and fastest < on_cpu[1]:
        check.warn(
            f"the CPU multiplies faster ({on_cpu[1]:,.2f} TFLOP/s in float32)",
            "a card should be many times faster: does the CPU do its work, or do others use the card?",
        )


def _products(dtype: str, device: str) -> tuple[int, float]:
    """Return the largest size that was timed, and its rate in TFLOP/s."""
    paddle.set_device(device)
    size, rate = 0, 0.0
    for size in SIZES:
        matrix = (paddle.ones([size, size]) / size).astype(dtype)
        seconds = _seconds(lambda x=matrix: paddle.matmul(x, x))
        rate = 2 * size**3 / seconds / 1e12
        if seconds > MAX_SECONDS / 8:
            break
    return size, rate


def _seconds(run: Callable) -> float:
    """Return the shortest time of a call. Calls are repeated until they take MIN_SECONDS together."""
    run()
    _wait()
    best, count = float("inf"), 1
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(count):
            run()
        _wait()
        taken = time.perf_counter() - start
        best = min(best, taken / count)
        count = max(count, min(int(MIN_SECONDS / max(taken / count, 1e-6)), 1000), 1)
    return best


def _wait() -> None:
    """Wait for a device's queue. A CPU has none, and fails at this call."""
    if not paddle.get_device().startswith("cpu"):
        paddle.device.synchronize()


def _check_copies(check: Check, device: str) -> None:
    """Copy numbers to the device, on it and back, and compare them bit by bit."""
    sent = np.random.default_rng(0).random(NUM_COPIED, dtype=np.float32)
    tensor = paddle.to_tensor(sent)
    seconds_to = _seconds(lambda: paddle.to_tensor(sent))
    seconds_on = _seconds(lambda: paddle.assign(tensor))
    start = time.perf_counter()
    back = paddle.assign(tensor).numpy()
    seconds_from = time.perf_counter() - start
    size = sent.nbytes / 1e9
    if device.startswith("cpu"):
        check.say(f"copies {size / seconds_on:,.1f} GB/s")
    else:
        rates = {"to": size / seconds_to, "from": size / seconds_from, "on": size / seconds_on}
        check.values |= {f"GB/s {name} the device": round(rate, 2) for name, rate in rates.items()}
        check.say("copies " + ", ".join(f"{rate:,.1f} GB/s {name} the device" for name, rate in rates.items()))
    if back.tobytes() != sent.tobytes():
        check.fail("copied numbers came back changed", "the card, its driver or its memory is broken: try another")
