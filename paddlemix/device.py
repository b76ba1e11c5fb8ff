"""Which device computes, in which dtype, and what has to be set before paddle is imported."""

from __future__ import annotations

import functools
import os
import sys
import warnings
from pathlib import Path

from .accelerators import (
    NPU_ENVIRONMENT,
    check_versions,
    npu_memory,
    tell_environment,
    version_of,
    wanted_environment,
    what_is_missing,
)
from .terminal.log import notice

# What paddle raises where a device, or a build, does not know its memory.
UNTOLD = (ValueError, RuntimeError, NotImplementedError, AttributeError, OSError)
DTYPES = ("float32", "bfloat16", "float16")


def prepare_environment(device: str | None = None) -> dict[str, str]:
    """Set the variables that paddle reads while it is imported; call it before. Returns what it set.

    What the user has set stays. device: "npu", "gpu", "cpu" or another kind (with or without ":N"), or None for the
    best there is. Raises ValueError for an Ascend plugin of another release than paddle's.
    """
    wanted = wanted_environment(device)
    is_npu = NPU_ENVIRONMENT.keys() <= wanted.keys()
    if is_npu:
        check_versions("npu")
    if device.startswith("cpu") if device else version_of("paddlepaddle-gpu") is None:
        # Copying strided views on a CPU takes 40 times as long as making the same tensor contiguous at once.
        wanted["FLAGS_use_stride_kernel"] = "0"
    if _is_amd():
        # The wheel's MKL takes its slow path on AMD processors; this makes matrix products 2.5 times faster.
        wanted["MKL_DEBUG_CPU_TYPE"] = "5"
    # paddle sets OMP_NUM_THREADS to 1 when it is imported, so what the user wants is kept under another name.
    wanted["PADDLEMIX_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or str(_num_cores())
    chosen = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(chosen)
    if is_npu and "paddle" in sys.modules and not NPU_ENVIRONMENT.keys().isdisjoint(chosen):
        notice("paddle is imported already, so that what is set for npu has no effect: import paddlemix before it")
    if is_npu:
        tell_environment(device, chosen)
    warnings.filterwarnings("ignore", message="No ccache found")  # paddle's import: it compiles nothing for us
    return chosen


def _num_cores() -> int:
    """Return the cores that each of this machine's training processes may have."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // int(os.environ.get("PADDLE_LOCAL_SIZE", os.environ.get("PADDLE_TRAINERS_NUM", "1"))), 1)


def num_threads() -> int:
    """Return how many threads an operation on the CPU gets."""
    return int(os.environ.get("PADDLEMIX_NUM_THREADS", "1"))


def _is_amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")[:4096]
    except OSError:
        return False


def available_devices() -> list[str]:
    """Return the kinds of device that this paddle can use, best first."""
    return [kind for kind in ("gpu", *_custom_kinds(), "cpu") if num_devices(kind)]


def num_devices(kind: str) -> int | None:
    """Return how many devices of a kind paddle sees here, None for a kind that it does not know."""
    import paddle

    if kind == "cpu":
        return 1
    if kind == "gpu":
        return paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else None
    is_known = kind in _custom_kinds()
    return paddle.base.core.get_custom_device_count(kind) if is_known else None


def _custom_kinds() -> list[str]:
    """Return the kinds of device that plugins brought to paddle, with or without a card."""
    import paddle

    return [name for name in paddle.device.get_all_custom_device_type() or [] if name]


def use_device(device: str | None = None) -> str:
    """Make a device current and return its name; None keeps one chosen before, else takes the best there is.

    Raises ValueError naming what this machine has.
    """
    import paddle

    found = available_devices()
    chosen = device or _chosen_before() or found[0]
    kind, _, number = chosen.partition(":")
    num_cards = num_devices(kind)
    if not num_cards:
        missing = what_is_missing(kind, num_cards)
        raise ValueError(f"device {chosen!r} is not there: this machine has {', '.join(found)}; {missing}")
    if device is None and kind == "cpu":
        for idle in _custom_kinds():
            notice(f"using the cpu, since there is no {idle}: {what_is_missing(idle, 0)}")
    # Looked at here, since paddle 3.0.0 ends the process where the number is too high.
    if number and not (number.isdecimal() and int(number) < num_cards):
        names = ", ".join(f"{kind}:{index}" for index in range(num_cards))
        raise ValueError(f"device {chosen!r} is not there: this machine has {names}; numbers start at 0")
    try:
        paddle.set_device(chosen)
    except (ValueError, RuntimeError, OSError) as error:
        raise ValueError(f"device {chosen!r} cannot be used: {str(error).strip().splitlines()[-1]}") from None
    if kind == "cpu":
        keep_freed_memory()
        paddle.base.core.set_num_threads(num_threads())
    return chosen


def device_memory(device: str) -> tuple[int, int] | None:
    """Return a device's total and free memory in bytes, None where it does not tell.

    The CPU's is the machine's, or what this process's control group may have. On other devices what paddle holds in
    reserve counts as free, and what other programs hold is not known.
    """
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return _host_memory()
    if kind == "npu":
        return npu_memory(int(number or 0))  # paddle does not tell it
    import paddle

    try:
        if kind == "gpu":
            total = paddle.device.cuda.get_device_properties(int(number or 0)).total_memory
        else:
            total = paddle.device.get_device_properties(f"{kind}:{number or 0}").total_memory
    except UNTOLD:
        return None
    return (int(total), int(total) - (allocated_memory(device) or 0)) if total else None


def allocated_memory(device: str) -> int | None:
    """Return the bytes that paddle has allocated there now, None where it does not tell."""
    return _memory_statistic(device, "current_value")


def peak_allocated(device: str) -> int | None:
    """Return the most bytes that paddle has had there since `forget_peak_allocated`, None where it does not tell."""
    return _memory_statistic(device, "peak_value")


def forget_peak_allocated(device: str) -> None:
    """Let the peak be what is allocated now."""
    _memory_statistic(device, "reset_peak_value")


def _memory_statistic(device: str, name: str) -> int | None:
    import paddle

    kind, _, number = device.partition(":")
    place = "host" if kind == "cpu" else "device"
    try:
        return getattr(paddle.base.core, f"{place}_memory_stat_{name}")("Allocated", int(number or 0))
    except UNTOLD:
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
    """Return the number that a file holds, None for another word or no file."""
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def wants_equal_shapes() -> bool:
    """Tell if the device in use compiles its work for each shape, so that equal shapes matter more than no padding."""
    import paddle

    return paddle.get_device().split(":")[0] not in ("cpu", "gpu")


def bucketed_length(length: int) -> int:
    """Return how many positions to compute for `length` of them: more where equal shapes matter, so that few occur.

    1, 64, 128 and multiples of 256.
    """
    if length == 1 or not wants_equal_shapes():
        return length
    return next((size for size in (64, 128) if length <= size), -(-length // 256) * 256)


def bucketed_count(count: int) -> int:
    """Return how many of something to compute for `count`, at most a quarter more: numbers of three binary digits."""
    if not wants_equal_shapes():
        return count
    step = 1 << max(count.bit_length() - 3, 0)
    return -(-count // step) * step


def _chosen_before() -> str | None:
    """Return the current device if it is not the CPU that paddle starts with on a machine without a better one."""
    import paddle

    current = paddle.get_device()
    return None if current == "cpu" else current


@functools.cache
def can_compute(dtype: str, device: str) -> bool:
    """Tell if a matrix product and a convolution run in a dtype: what paddle says about its support is not reliable."""
    import paddle

    try:
        paddle.set_device(device)
        x = paddle.ones([1, 3, 4, 4], dtype="float32").astype(dtype)
        paddle.nn.functional.conv2d(x, paddle.ones([2, 3, 2, 2], dtype="float32").astype(dtype)).numpy()
        matrix = paddle.ones([4, 4], dtype="float32").astype(dtype)
        paddle.matmul(matrix, matrix).numpy()
    except (RuntimeError, NotImplementedError, ValueError, OSError):
        return False
    return True


def choose_dtype(dtype: str | None = None, *, stored: str = "float32") -> str:
    """Return the dtype to compute in on the current device, with a notice when it is not the one asked for.

    dtype None asks for the stored one, without a notice where only float32 works. Raises ValueError for other names.
    """
    import paddle

    for name in (dtype, stored):
        if name is not None and name not in DTYPES:
            raise ValueError(f"unknown dtype {name!r}: expected one of {', '.join(DTYPES)}")
    wanted = dtype or stored
    device = paddle.get_device()
    if wanted == "float32" or can_compute(wanted, device):
        return wanted
    if dtype is not None:
        notice(f"{device} has no {wanted} kernels for matrix products and convolutions here: using float32")
    return "float32"


def peak_memory() -> int:
    """Return the most bytes that this process has had on the device in use so far; on a CPU its resident memory."""
    import paddle

    place = paddle.get_device()
    on_device = None if place.startswith("cpu") else peak_allocated(place)
    if on_device is not None:
        return int(on_device)
    import resource

    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes if sys.platform == "darwin" else kibibytes * 1024  # macOS counts bytes


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed for the next request; tell if it can.

    Paddle's CPU tensors come from malloc, which gives large ones back at once and has the kernel clear fresh pages for
    the next one, which takes longer than most operations.
    """
    import ctypes

    trim_threshold, max_maps, max_arenas = -1, -4, -8  # of glibc's malloc.h
    try:
        change = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library than glibc
        return False
    # One arena, since those of threads give memory back whatever else is set.
    return bool(change(max_maps, 0) and change(trim_threshold, 2**31 - 1) and change(max_arenas, 1))
