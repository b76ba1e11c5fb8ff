"""Which device computes and in which dtype, and the environment that paddle needs before it is imported."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import warnings
from pathlib import Path

from .accelerators import (
    NPU_ENVIRONMENT,
    advice_for_missing,
    check_versions,
    report_environment,
    version_of,
    wanted_environment,
)
from .terminal.log import notice

NPU, GPU, CPU = "npu", "gpu", "cpu"
KINDS = (NPU, GPU, CPU)
DEVICE_NAMES = f"{GPU}, {NPU} or {CPU}, or one of several: {GPU}:1"  # for people
FOREIGN_KINDS = {"cuda": GPU, "ascend": NPU}  # as other projects call them
DTYPES = ("float32", "bfloat16", "float16")
# The libuv server of paddle 3.3, by which processes find each other, ends one start in ten with an assertion.
WITHOUT_LIBUV = {"FLAGS_tcp_store_using_libuv": "0"}
XCCL_BACKEND = "PADDLE_XCCL_BACKEND"  # the kind of card with a plugin whose collectives paddle uses
AVX_512 = frozenset("avx512f avx512cd avx512bw avx512dq avx512vl".split())  # what MKL's code for Skylake needs


def device_name(text: str) -> str:
    """Return the name of a device in our words: "GPU:0" and "cuda:0" are "gpu:0", "Ascend" is "npu".

    Raises ValueError for a colon without the number of a card.
    """
    kind, colon, number = text.strip().lower().partition(":")
    kind = FOREIGN_KINDS.get(kind, kind)
    if colon and not number.isdecimal():
        raise ValueError(
            f"device is {text!r}: expected the number of a card after the colon, such as {kind}:0, or {kind} alone"
        )
    return f"{kind}{colon}{number}"


def prepare_environment(device: str | None = None) -> dict[str, str]:
    """Set the variables that paddle reads when it is imported, which must come later. Return those that were set.

    Variables that the user has set stay. device: "npu", "gpu", "cpu" or another kind (with or without ":N"), or None
    for the best available. Raises ValueError if the Ascend plugin and paddle are of different releases.
    """
    device = device_name(device) if device else device
    wanted = wanted_environment(device)
    is_npu = NPU_ENVIRONMENT.keys() <= wanted.keys()
    if is_npu:
        check_versions("npu")
    if device.startswith("cpu") if device else version_of("paddlepaddle-gpu") is None:
        # Copying strided views on a CPU takes 40 times as long as making the same tensor contiguous at once.
        wanted["FLAGS_use_stride_kernel"] = "0"
    if processor := mkl_type(_first_processor()):
        wanted["MKL_DEBUG_CPU_TYPE"] = processor
    if int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) > 1:
        wanted |= WITHOUT_LIBUV
    # paddle sets OMP_NUM_THREADS to 1 when it is imported, so the user's value is stored under another name.
    wanted["PADDLEMIX_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or str(_num_cores())
    chosen = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(chosen)
    if is_npu and "paddle" in sys.modules and not NPU_ENVIRONMENT.keys().isdisjoint(chosen):
        notice("paddle is imported already, so that the settings for npu have no effect: import paddlemix before it")
    if is_npu:
        report_environment(device, chosen)
    warnings.filterwarnings("ignore", message="No ccache found")  # paddle's import warns; nothing is compiled
    return chosen


def _num_cores() -> int:
    """Return the number of cores for each training process on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // int(os.environ.get("PADDLE_LOCAL_SIZE", os.environ.get("PADDLE_TRAINERS_NUM", "1"))), 1)


def num_threads() -> int:
    """Return the number of threads for an operation on the CPU."""
    return int(os.environ.get("PADDLEMIX_NUM_THREADS", "1"))


def mkl_type(facts: str) -> str | None:
    """Return the kind of processor for which the wheel's MKL computes fastest, None for the one that it finds itself.

    MKL takes its slow path on AMD processors. As "5", AVX2, its matrix products are 2.5 times as fast, and as "7", the
    AVX-512 of Skylake, again twice as fast on an EPYC whose registers have 512 bits. NOTE: "6", Knights Landing, has
    instructions that other processors lack. facts: a processor's part of /proc/cpuinfo.
    """
    if "AuthenticAMD" not in facts:
        return None
    return "7" if set(facts.split()) >= AVX_512 else "5"


def _first_processor() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return ""


def num_devices(kind: str) -> int | None:
    """Return how many devices of a kind paddle finds, or None if it does not know the kind."""
    import paddle

    if kind == "cpu":
        return 1
    if kind == "gpu":
        return paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else None
    is_known = kind in _custom_kinds()
    return paddle.base.core.get_custom_device_count(kind) if is_known else None


def _custom_kinds() -> list[str]:
    """Return the kinds of device that plugins add to paddle, with or without a card."""
    import paddle

    return [name for name in paddle.device.get_all_custom_device_type() or [] if name]


def available_kinds() -> list[str]:
    """Return the kinds of device of which this machine has one, best first."""
    return [kind for kind in ("gpu", *_custom_kinds(), "cpu") if num_devices(kind)]


def use_device(device: str | None = None) -> str:
    """Make a device current and return its name. None keeps a device chosen earlier, else takes the best available.

    Raises ValueError with the devices of this machine.
    """
    import paddle

    found = available_kinds()
    current = paddle.get_device()  # "cpu" also where none was chosen
    chosen = device_name(device) if device else (found[0] if current == "cpu" else current)
    kind, _, number = chosen.partition(":")
    num_cards = num_devices(kind)
    if not num_cards:
        missing = advice_for_missing(kind, num_cards)
        raise ValueError(f"device {chosen!r} is not there: this machine has {', '.join(found)}; {missing}")
    if device is None and kind == "cpu":
        for idle in _custom_kinds():
            notice(f"using the cpu, since there is no {idle}: {advice_for_missing(idle, 0)}")
    # Checked here, because paddle 3.0.0 ends the process if the number is too high.
    if number and int(number) >= num_cards:
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


def use_device_in_thread() -> None:
    """Let the calling thread compute as the one that called `use_device`.

    CUDA's current card and OpenMP's number of threads belong to a thread: a new one has card 0 and one thread.
    """
    import paddle

    paddle.set_device(paddle.get_device())
    if paddle.get_device() == "cpu":
        paddle.base.core.set_num_threads(num_threads())


def keep_freed_memory() -> None:
    """Make the C library keep freed memory for later requests, if it is glibc.

    Paddle's CPU tensors come from malloc, which returns large blocks to the kernel at once. The kernel then clears
    fresh pages for the next tensor, which takes longer than most operations.
    """
    import ctypes

    trim_threshold, max_maps, max_arenas = -1, -4, -8  # from glibc's malloc.h
    try:
        change = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # a C library other than glibc
        return
    change(max_maps, 0)
    change(trim_threshold, 2**31 - 1)
    change(max_arenas, 1)  # the arenas of other threads return memory in spite of these settings


def return_freed_memory() -> None:
    """Return the whole pages that the C library keeps to the system, after large tensors have changed their size.

    Kept memory lies in pieces between what is in use, and new tensors of another size do not fit into them.
    """
    import ctypes

    with contextlib.suppress(AttributeError, OSError, TypeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def can_compute(dtype: str, device: str) -> bool:
    """Return whether a matrix product and a convolution run in a dtype; paddle's own answer is not reliable."""
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
    """Return the dtype to compute in on the current device, with a notice if it is not the requested one.

    dtype None requests the stored dtype, without a notice if only float32 works. Raises ValueError for other names.
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


def wants_equal_shapes(kind: str | None = None) -> bool:
    """Return whether a kind of device compiles its work for each shape, so that new shapes cost more than padding.

    kind: None for that of the current device.
    """
    if kind is None:
        import paddle

        kind = paddle.get_device().split(":")[0]
    return kind not in (CPU, GPU)


def bucketed_length(length: int) -> int:
    """Return how many positions to compute for `length` of them: more where equal shapes matter.

    The buckets are 1, 64, 128 and multiples of 256.
    """
    if length == 1 or not wants_equal_shapes():
        return length
    return next((size for size in (64, 128) if length <= size), -(-length // 256) * 256)


def bucketed_count(count: int) -> int:
    """Return how many items to compute for `count` of them: at most a quarter more, where equal shapes matter.

    The buckets are numbers with three significant binary digits.
    """
    if not wants_equal_shapes():
        return count
    step = 1 << max(count.bit_length() - 3, 0)
    return -(-count // step) * step
