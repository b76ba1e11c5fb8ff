"""The devices' own kernels: which of them there are, and whether they compute what they should.

Inputs, attributes and limits of a kernel differ between versions of paddle and of a device's plugin. So a kernel is
used only after a tiny try of it has given what the plain operations give, forward and backward; otherwise there is one
notice, and the plain operations do the work. PADDLEMIX_PLAIN_OPS=1 tries none of them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence

import numpy as np
import paddle

from ..accelerators import plugin_folder
from ..terminal.log import notice

HALF = ("float16", "bfloat16")
TOLERANCES = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 2e-2}  # of the largest value
FAILURES = (RuntimeError, ValueError, TypeError, NotImplementedError, OSError, AttributeError)


def kind_of(tensor) -> str:
    """Return the kind of device a tensor is on: "cpu", "gpu", or a custom device's name, such as "npu"."""
    place = tensor.place
    if place.is_cpu_place():
        return "cpu"
    if place.is_gpu_place():
        return "gpu"
    return place.custom_device_type() if place.is_custom_place() else "other"


def name_of(dtype) -> str:
    """Return "bfloat16" for paddle.bfloat16."""
    return str(dtype).rsplit(".", 1)[-1]


def product_dtype(dtype) -> str:
    """Return what matrix products of a dtype are computed in: mixed precision makes 16 bits of 32."""
    tracer = paddle.base.framework._dygraph_tracer()
    is_mixed = tracer is not None and tracer._amp_level != paddle.base.core.AmpLevel.O0
    return name_of(tracer._amp_dtype) if is_mixed else name_of(dtype)


def run_custom(name: str, *arguments) -> list:
    """Return the outputs of a plugin's operation; inputs and attributes stand in the order of its registration.

    Raises one of FAILURES where there is no such operation or it takes something else.
    """
    _register_plugins()
    return paddle.base.core.eager._run_custom_op(name, *arguments)


@functools.cache
def _register_plugins() -> None:
    """Make the operations of the plugins known, as paddle does not do by itself."""
    folder = plugin_folder()
    for library in sorted(os.listdir(folder)) if folder is not None else []:
        if library.endswith(".so"):
            paddle.utils.cpp_extension.extension_utils.load_op_meta_info_and_register_op(library)


def agrees(
    name: str,
    kernel: Callable,
    plain: Callable,
    shapes: Sequence[Sequence[int]],
    dtype: str,
    *,
    has_gradient: bool = True,
) -> bool:
    """Tell if a kernel does what plain operations do, on tensors of these shapes and of a dtype on the current device.

    kernel, plain: functions of as many tensors as there are shapes; the plain one gets the same values in float32. Only
    the first complaint about a name is told.
    """
    if os.environ.get("PADDLEMIX_PLAIN_OPS", "0") not in ("", "0"):
        return False
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
    try:
        with paddle.amp.auto_cast(enable=False), paddle.set_grad_enabled(has_gradient):
            found, expected = _values(kernel, arrays, dtype, False), _values(plain, arrays, dtype, True)
        errors = [_error(one, other) for one, other in zip(found, expected, strict=True)]
    except FAILURES as error:
        _complain(name, _reason(error))
        return False
    # A comparison with NaN is false, so that NaN does not pass.
    if all(error <= TOLERANCES[dtype] for error in errors):
        return True
    _complain(name, f"its values for {dtype} differ by up to {max(errors):.1e} from what they should be")
    return False


def _values(function: Callable, arrays: list[np.ndarray], dtype: str, is_wide: bool) -> list[np.ndarray]:
    """Return the output and, with gradients on, the gradient of each input, in float32."""
    tensors = [paddle.to_tensor(array).astype(dtype) for array in arrays]
    tensors = [tensor.astype("float32") for tensor in tensors] if is_wide else tensors
    for tensor in tensors:
        tensor.stop_gradient = not paddle.is_grad_enabled()
    out = function(*tensors)
    if not paddle.is_grad_enabled():
        return [out.astype("float32").numpy()]
    slopes = np.random.default_rng(1).standard_normal(out.shape).astype(np.float32)
    (out.astype("float32") * paddle.to_tensor(slopes)).sum().backward()
    return [out.astype("float32").numpy(), *(tensor.grad.astype("float32").numpy() for tensor in tensors)]


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, as a part of the largest value where that is above 1."""
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1.0))


def _reason(error: BaseException) -> str:
    """Return what paddle complains of, without its listing of C++ frames."""
    if "LoadOpMetaInfoAndRegisterOp" in str(error):
        return "the device's plugin has no such operation"
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if "Error:" in line or "(at " in line] or [line for line in lines if line]
    return told[-1][:200] if told else type(error).__name__


@functools.cache
def complaints(name: str) -> list[str]:
    """Return why a kernel is not used, a reason for each try that failed."""
    return []


def _complain(name: str, reason: str) -> None:
    if not complaints(name):
        notice(f"{name} is not used here, other operations do its work: {reason}")
    complaints(name).append(reason)
