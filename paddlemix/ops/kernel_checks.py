"""Which device kernels exist, and whether they compute the right values.

Inputs, attributes and limits of a kernel differ between versions of paddle and of a device's plugin. A kernel is used
only after a small trial has returned what plain operations return, forward and backward. Otherwise there is one notice,
and plain operations are used. PADDLEMIX_PLAIN_OPS=1 disables all kernels.
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
TOLERANCES = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 2e-2}  # relative to the largest value
FAILURES = (RuntimeError, ValueError, TypeError, NotImplementedError, OSError, AttributeError)


def kind_of(tensor) -> str:
    """Return the kind of device a tensor is on: "cpu", "gpu", or the name of a custom device, e.g. "npu"."""
    place = tensor.place
    if place.is_cpu_place():
        return "cpu"
    if place.is_gpu_place():
        return "gpu"
    return place.custom_device_type() if place.is_custom_place() else "other"


def name_of(dtype) -> str:
    """Return "bfloat16" for paddle.bfloat16."""
    return str(dtype).rsplit(".", 1)[-1]


def is_trained(*tensors) -> bool:
    """Return whether a gradient passes through one of these, so that values computed from them must be kept."""
    return paddle.is_grad_enabled() and not all(tensor.stop_gradient for tensor in tensors)


def wants_own_gradient(*tensors) -> bool:
    """Return whether an operation's own `PyLayer` pays: for training on a CPU in float32.

    Automatic differentiation stores every intermediate result and reads the memory once for each. These layers store
    their inputs only and compute the gradient in few passes: over equal shapes, and with sums as products with a vector
    of ones. Both are many times as fast on a CPU as Paddle's broadcasts and reductions.
    """
    return is_trained(*tensors) and tensors[0].dtype == paddle.float32 and tensors[0].place.is_cpu_place()


def product_dtype(dtype) -> str:
    """Return the dtype that matrix products of tensors of a dtype are computed in, with mixed precision or without."""
    tracer = paddle.base.framework._dygraph_tracer()
    is_mixed = tracer is not None and tracer._amp_level != paddle.base.core.AmpLevel.O0
    return name_of(tracer._amp_dtype) if is_mixed else name_of(dtype)


def run_custom(name: str, *arguments) -> list:
    """Return the outputs of a plugin's operation; inputs and attributes are in the order of its registration.

    Raises one of FAILURES if there is no operation of this name or it takes other arguments.
    """
    _register_plugins()
    return paddle.base.core.eager._run_custom_op(name, *arguments)


@functools.cache
def _register_plugins() -> None:
    """Register the operations of the plugins, which paddle does not do by itself."""
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
    """Return whether a kernel computes the same as plain operations, on random tensors on the current device.

    kernel, plain: functions of as many tensors as there are shapes; the plain one gets the same values in float32. Only
    the first failure of each name is reported.
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
        _reject(name, _reason(error))
        return False
    # A comparison with NaN is false, so that NaN does not pass.
    if all(error <= TOLERANCES[dtype] for error in errors):
        return True
    _reject(name, f"its values for {dtype} differ by up to {max(errors):.1e} from the expected ones")
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
    """Return the largest difference, divided by the largest value if that is above 1."""
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1.0))


def _reason(error: BaseException) -> str:
    """Return paddle's error message without its list of C++ frames."""
    if "LoadOpMetaInfoAndRegisterOp" in str(error):
        return "the device's plugin has no such operation"
    lines = [line.strip() for line in str(error).splitlines()]
    useful = [line for line in lines if "Error:" in line or "(at " in line] or [line for line in lines if line]
    return useful[-1][:200] if useful else type(error).__name__


@functools.cache
def rejections(name: str) -> list[str]:
    """Return why a kernel is not used, one reason for each failed trial."""
    return []


def _reject(name: str, reason: str) -> None:
    if not rejections(name):
        notice(f"{name} is not used here, other operations replace it: {reason}")
    rejections(name).append(reason)
