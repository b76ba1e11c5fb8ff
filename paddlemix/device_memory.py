"""Memory of devices: total, free, and what paddle has allocated."""

from __future__ import annotations

import sys
from pathlib import Path

from .accelerators import npu_memory

# What paddle raises if a device, or the build of paddle, does not report its memory.
NOT_REPORTED = (ValueError, RuntimeError, NotImplementedError, AttributeError, OSError)


def memory_of(device: str) -> tuple[int, int] | None:
    """Return a device's total and free memory in bytes, or None if it does not report them.

    The CPU's is that of the machine, or the limit of this process's control group. On other devices, memory that paddle
    holds in reserve counts as free, and memory of other programs is not known.
    """
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return _host_memory()
    if kind == "npu":
        return npu_memory(int(number or 0))  # paddle does not report it
    import paddle

    try:
        if kind == "gpu":
            total = paddle.device.cuda.get_device_properties(int(number or 0)).total_memory
        else:
            total = paddle.device.get_device_properties(f"{kind}:{number or 0}").total_memory
    except NOT_REPORTED:
        return None
    return (int(total), int(total) - (allocated_memory(device) or 0)) if total else None


def allocated_memory(device: str) -> int | None:
    """Return the bytes that paddle has allocated on a device now, or None if they are not reported."""
    return _statistic(device, "current_value")


def peak_allocated(device: str) -> int | None:
    """Return the most bytes that paddle has allocated since `reset_peak`, or None if they are not reported."""
    return _statistic(device, "peak_value")


def reset_peak(device: str) -> None:
    """Set the peak to what is allocated now."""
    _statistic(device, "reset_peak_value")


def peak_memory() -> int:
    """Return the most bytes that this process has used on the current device; on a CPU its resident memory."""
    import paddle

    place = paddle.get_device()
    on_device = None if place.startswith("cpu") else peak_allocated(place)
    if on_device is not None:
        return int(on_device)
    import resource

    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes if sys.platform == "darwin" else kibibytes * 1024  # macOS counts bytes


def _statistic(device: str, name: str) -> int | None:
    import paddle

    kind, _, number = device.partition(":")
    place = "host" if kind == "cpu" else "device"
    try:
        return getattr(paddle.base.core, f"{place}_memory_stat_{name}")("Allocated", int(number or 0))
    except NOT_REPORTED:
        return None


def _host_memory() -> tuple[int, int] | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
    total, free = values["MemTotal"], values["MemAvailable"]
    limit, used = (_number_in(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit is not None and used is not None and limit < total:
        return limit, min(free, limit - used)
    return total, free


def _number_in(path: str) -> int | None:
    """Return the number in a file, or None if there is no file or another word in it."""
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
