"""The process that uses the device: `worker DEVICE RESULTS PART ...` does the parts of a report.

It writes lines of JSON to RESULTS: {"begin": part}, then {"check": {...}}. A part that fails does not end the process,
unless the device no longer computes afterwards: then another process is started for the remaining parts.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

from ..device import prepare_environment
from .check import FAILED, Check, Diagnosis
from .error_text import library_to_preload, of_error

NEEDED = ("paddle", "device")  # without them the other parts cannot be tried
KERNELS = ("dense", "masked", "packed", "rms norm", "rotary", "swiglu")
RUNS = ("training", "chat")
PARTS = (*NEEDED, "dtypes", *KERNELS, "speed", *RUNS)
HALF = ("float16", "bfloat16")


def main(argv: list[str]) -> int:
    """Do the parts; return 0 even if some of them failed."""
    device, results, *parts = argv
    with Path(results).open("a", encoding="utf-8") as file:

        def write(line: dict) -> None:
            print(json.dumps(line), file=file, flush=True)

        for part in NEEDED if parts[0] not in NEEDED else ():
            do_part(part, device)  # an earlier process has reported it
        for part in parts:
            write({"begin": part})
            print(f"== {part}", flush=True)
            check = do_part(part, device)
            write({"check": dataclasses.asdict(check)})
            if check.status == FAILED and (part in NEEDED or not is_healthy(device)):
                return 0
    return 0


def do_part(part: str, device: str) -> Check:
    """Return the check of a part; any exception is its failure."""
    diagnosis = Diagnosis()
    with diagnosis.check(part, is_notice_warned=part in KERNELS) as check:
        try:
            function_of(part)(check, device)
        except Exception as error:  # the report must not end because something is broken
            check.fail(of_error(error))
            check.values["preload"] = library_to_preload(str(error))
    return check


def function_of(part: str) -> Callable[[Check, str], None]:
    """Return the function of a part. It is imported here because the first part is to import paddle."""
    if part in KERNELS:
        from .operations import check_operation

        return lambda check, device: check_operation(check, part, device)
    if part == "speed":
        from .speeds import check_speed

        return check_speed
    if part in RUNS:
        from . import tiny_runs

        return tiny_runs.check_training if part == "training" else tiny_runs.check_chat
    return {"paddle": check_paddle, "device": check_device, "dtypes": check_dtypes}[part]


def check_paddle(check: Check, device: str) -> None:
    """Set the device's environment and import paddle, with its plugin if there is one."""
    chosen = prepare_environment(device)
    import paddle

    from .machine import check_versions

    check_versions(check)
    named = [f"{name}={value}" for name, value in sorted(chosen.items())]
    check.say(f"built from {paddle.version.commit[:12]}; set before the import: {', '.join(named) or 'nothing'}")


def check_device(check: Check, device: str) -> None:
    """Make the device current, and report the number of devices and the free memory."""
    from .. import device as devices
    from .. import device_memory
    from ..terminal.sizes import in_memory

    kind = device.partition(":")[0]
    chosen = devices.use_device(device)
    memory = device_memory.memory_of(chosen)
    size = "free memory not known" if memory is None else f"{in_memory(memory[1])} of {in_memory(memory[0])} free"
    check.say(f"{chosen}, 1 of {devices.num_devices(kind)}; {size}")
    check.values |= {
        "count": devices.num_devices(kind),
        "memory": memory and dict(zip(("total", "free"), memory, strict=True)),
    }
    if kind != "cpu" and memory is None:
        check.warn(
            "the estimate of a run's memory must be compared with it by hand", "the vendor's tool should show it"
        )


def check_dtypes(check: Check, device: str) -> None:
    """Try the basic operations in each dtype, forward and backward, against NumPy."""
    from .. import device as devices
    from .operations import try_basics

    for dtype in devices.DTYPES:
        print(f"== {dtype}", flush=True)
        can_compute = devices.can_compute(dtype, device)
        check.values[dtype] = can_compute
        if can_compute:
            try_basics(check, dtype)
        else:
            _report_missing(check, dtype, device)
    if check.status == FAILED:
        check.advice.append("compare the versions above with those that fit each other; send this report")


def _report_missing(check: Check, dtype: str, device: str) -> None:
    text = f"{dtype}: no matrix product or convolution here"
    if dtype not in HALF:
        check.fail(text, "nothing can be computed: see driver and installation above")
    elif device.startswith("cpu"):
        check.say(f"{text}, float32 is used instead")
    else:
        check.warn(f"{text}, float32 is used instead", "16 bits halve the memory: see driver and versions above")


def is_healthy(device: str) -> bool:
    """Return whether the device still computes after a failure."""
    import paddle

    try:
        paddle.set_device(device)
        ones = paddle.ones([4, 4])
        return bool((paddle.matmul(ones, ones) == 4.0).all())
    except Exception:  # with any error this process is of no more use
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
