"""How fast a device multiplies and copies: a look at whether it works as it should, no benchmark."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import paddle

from .. import device as devices
from .check import Check

SIZES = (512, 1024, 2048, 4096, 8192)
ENOUGH = 0.02  # seconds: shorter ones measure the calls
MAX_SECONDS = 0.3  # of one product: the next size takes eight times as long
NUM_COPIED = 16 << 20  # numbers of 4 bytes
REPEATS = 3


def check_speed(check: Check, device: str) -> None:
    """Time matrix products in each dtype, an operation of next to no work, and copies; compare copied values."""
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
    latency = _latency()
    check.values["microseconds an operation"] = round(latency * 1e6, 1)
    check.say(f"{latency * 1e6:,.0f} microseconds for an operation of next to no work")
    _check_copies(check, device)
    if on_cpu is not None and fastest < on_cpu[1]:
        check.warn(
            f"the CPU multiplies faster ({on_cpu[1]:,.2f} TFLOP/s in float32)",
            "a card should be many times faster: is its work done by the CPU, or the card in use by others?",
        )


def _products(dtype: str, device: str) -> tuple[int, float]:
    """Return the largest size that was timed, and the rate in TFLOP/s."""
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
    """Return the shortest time of a call; calls are repeated until they take long enough together."""
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
        count = max(count, min(int(ENOUGH / max(taken / count, 1e-6)), 1000), 1)
    return best


def _wait() -> None:
    """Wait until the device has done what it was given; a CPU has done it, and knows no such call."""
    if not paddle.get_device().startswith("cpu"):
        paddle.device.synchronize()


def _latency() -> float:
    x = paddle.ones([8])
    return _seconds(lambda: x + x)


def _check_copies(check: Check, device: str) -> None:
    """Send numbers to the device, copy them there, and compare what comes back bit by bit."""
    sent = np.random.default_rng(0).random(NUM_COPIED, dtype=np.float32)
    there = paddle.to_tensor(sent)
    up = _seconds(lambda: paddle.to_tensor(sent))
    across = _seconds(lambda: paddle.assign(there))
    start = time.perf_counter()
    back = paddle.assign(there).numpy()
    down = time.perf_counter() - start
    size = sent.nbytes / 1e9
    if device.startswith("cpu"):
        check.say(f"copies {size / across:,.1f} GB/s")
    else:
        rates = {"to": size / up, "from": size / down, "on": size / across}
        check.values |= {f"GB/s {name} the device": round(rate, 2) for name, rate in rates.items()}
        check.say("copies " + ", ".join(f"{rate:,.1f} GB/s {name} the device" for name, rate in rates.items()))
    if back.tobytes() != sent.tobytes():
        check.fail("what was copied came back changed", "the card, its driver or its memory is broken: try another")
