"""Whether paddle can be imported with its plugin, has the device, and computes in which dtypes."""

from __future__ import annotations

from ..accelerators import NPU_ENVIRONMENT
from ..device import prepare_environment
from .check import Check
from .error_text import library_to_preload, of_error

HALF = ("float16", "bfloat16")


def check_paddle(check: Check, device: str) -> None:
    """Set the device's variables and import paddle. Raises nothing: without paddle there is nothing more to try."""
    try:
        chosen = prepare_environment(device)
        import paddle
    except Exception as error:  # a library that cannot be loaded says so in several ways
        check.fail(of_error(error))
        check.values["preload"] = library_to_preload(str(error))
        return
    from .machine import check_versions

    check_versions(check)
    check.say(
        f"built from {paddle.version.commit[:12]}; before the import were set {', '.join(_named(chosen)) or 'none'}"
    )


def _named(chosen: dict[str, str]) -> list[str]:
    """Return NAME=VALUE of what was set without a line of its own."""
    return [f"{name}={value}" for name, value in sorted(chosen.items()) if name not in NPU_ENVIRONMENT]


def check_device(check: Check, device: str) -> None:
    """Make the device current and say how many there are and what is free."""
    from .. import device as devices
    from ..terminal.sizes import in_memory

    kind = device.partition(":")[0]
    chosen = devices.use_device(device)
    memory = devices.device_memory(chosen)
    size = "free memory is not told" if memory is None else f"{in_memory(memory[1])} of {in_memory(memory[0])} free"
    check.say(f"{chosen}, 1 of {devices.num_devices(kind)}; {size}")
    check.values |= {
        "count": devices.num_devices(kind),
        "memory": memory and dict(zip(("total", "free"), memory, strict=True)),
    }
    if kind != "cpu" and memory is None:
        check.warn("so an estimate of a run's memory has to be compared by hand", "the vendor's tool should tell it")


def check_dtypes(check: Check, device: str) -> None:
    """Run matrix product, convolution and embedding in each dtype, forward and backward, against NumPy."""
    from .. import device as devices
    from .machine import try_operations

    for dtype in devices.DTYPES:
        print(f"== {dtype}", flush=True)
        is_there = devices.can_compute(dtype, device)
        check.values[dtype] = is_there
        if not is_there:
            _tell_missing(check, dtype, device)
            continue
        wrong = {name: text for name, text in try_operations(dtype).items() if text}
        for name, text in wrong.items():
            check.fail(f"{name} in {dtype}: {text}")
        if not wrong:
            check.say(f"{dtype}: matrix product, convolution and embedding equal NumPy's, forward and backward")
    if check.status == "FAILED":
        check.advice.append("compare the versions above with those that fit each other; send this report")


def _tell_missing(check: Check, dtype: str, device: str) -> None:
    text = f"{dtype}: no matrix product or convolution here"
    if dtype not in HALF:
        check.fail(text, "nothing can be computed: see driver and installation above")
    elif device.startswith("cpu"):
        check.say(f"{text}, float32 is used instead")
    else:
        check.warn(f"{text}, float32 is used instead", "16 bits halve the memory: see driver and versions above")


def is_healthy(device: str) -> bool:
    """Tell if the device still computes after something failed on it."""
    import paddle

    try:
        paddle.set_device(device)
        ones = paddle.ones([4, 4])
        return bool((paddle.matmul(ones, ones) == 4.0).all())
    except Exception:  # whatever it is, this process is of no more use
        return False
