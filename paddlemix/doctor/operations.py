"""Operations on a device compared with NumPy on the CPU, forward and backward.

`try_basics` covers what any training needs. `check_operation` covers the operations that may have kernels of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F

from .. import device as devices
from ..ops import kernels_in_use
from ..ops.activation import swiglu
from ..ops.attention import attention, kernel_mask
from ..ops.kernel_checks import name_of
from ..ops.packed_attention import find_runs, packed_attention
from ..ops.plain_attention import MASKED
from ..ops.rms_norm import rms_norm
from ..ops.rope import apply_rope, rope_tables
from . import numpy_operations
from .check import WARNING, Check
from .error_text import of_error

# Largest error of a basic operation, relative to the largest value: TF32 and half precision round.
BASIC_TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
DIM, HEADS, KEY_HEADS, LENGTH = 64, 4, 2, 48  # two query heads share a key head
HIDDEN = 128
EPSILON, THETA = 1e-5, 1e4
POSITIONS = np.stack([np.arange(LENGTH), np.arange(LENGTH) + 200])
VISIBLE = np.random.default_rng(3).random([2, 1, LENGTH, LENGTH]) > 0.5
VISIBLE[..., 0] = True
STEP = 1e-4  # of central differences
SEGMENTS = np.array([[1] * 20 + [2] * 28, [1] * 30 + [2] * 10 + [0] * 8])
# Largest errors relative to the largest value: of a correct result, and of a device that rounds float32 more.
TOLERANCES = {"float32": (1e-4, 5e-3), "float16": (2e-2, 2e-2), "bfloat16": (4e-2, 4e-2)}
PLAIN = "plain operations"


def try_basics(check: Check, dtype: str, *advice: str) -> None:
    """Run matrix product, convolution and embedding in a dtype, and report which results differ from NumPy's."""
    wrong = {name: text for name, text in basic_errors(dtype).items() if text}
    for name, text in wrong.items():
        check.fail(f"{name} in {dtype}: {text}", *advice)
    if not wrong:
        check.say(f"{dtype}: matrix product, convolution and embedding equal NumPy's, forward and backward")


def basic_errors(dtype: str) -> dict[str, str]:
    """Return what is wrong with each basic operation, "" for nothing."""
    draw = np.random.default_rng(0).standard_normal
    x, w = draw([8, 16]).astype(np.float32), draw([16, 4]).astype(np.float32)
    image, kernel = draw([2, 3, 4, 4]).astype(np.float32), draw([5, 3, 2, 2]).astype(np.float32)
    table, index = draw([10, 6]).astype(np.float32), np.array([1, 3, 3])
    patches = image.reshape([2, 3, 2, 2, 2, 2]).transpose([0, 2, 4, 1, 3, 5]).reshape([2, 2, 2, 12])
    folded = (patches @ kernel.reshape([5, 12]).T).transpose([0, 3, 1, 2])
    counts = np.bincount(index, minlength=10)[:, None] * np.ones([1, 6])
    sums = image.reshape([2, 3, 2, 2, 2, 2]).sum(axis=(0, 2, 4))
    return {
        "matrix product": _try(dtype, lambda a: paddle.matmul(paddle.to_tensor(x, dtype=dtype), a), w, x @ w,
                               np.repeat(x.sum(0)[:, None], 4, 1)),
        "convolution": _try(dtype, lambda a: F.conv2d(paddle.to_tensor(image, dtype=dtype), a, stride=2), kernel,
                            folded, np.repeat(sums[None], 5, 0)),
        "embedding": _try(dtype, lambda a: F.embedding(paddle.to_tensor(index), a), table, table[index], counts),
    }  # fmt: skip


def _try(dtype: str, run: Callable, values: np.ndarray, expected: np.ndarray, gradient: np.ndarray) -> str:
    try:
        # Cast on the device, because not all devices accept half precision from the host.
        argument = paddle.to_tensor(values).astype(dtype)
        argument.stop_gradient = False
        result = run(argument)
        result.astype("float32").sum().backward()
        pairs = [(result, expected, "result"), (argument.grad, gradient, "gradient")]
        for found, wanted, name in pairs:
            error = float(np.abs(found.astype("float32").numpy() - wanted).max() / np.abs(wanted).max())
            if not error < BASIC_TOLERANCE[dtype]:
                return f"the {name} differs from NumPy's by {error:.1e} of the largest value"
    except (RuntimeError, NotImplementedError, ValueError, OSError) as error:
        return str(error).strip().splitlines()[-1]
    return ""


@dataclass(frozen=True)
class Case:
    """run: a function of tensors with these shapes, which get random values. expected: the same in NumPy."""

    shapes: tuple[tuple[int, ...], ...]
    run: Callable
    expected: Callable


def _dense(query, key, value):
    """Attend causally, as a decoder does, and to everything, as a vision tower does; return the sum."""
    return attention(query, key, value, is_causal=True) + attention(query, key, value)


def _masked(query, key, value):
    """Attend with a mask that hides other keys in each row, in the form that the device needs."""
    bias = paddle.to_tensor(np.where(VISIBLE, 0.0, MASKED).astype(np.float32))
    return attention(query, key, value, bias=kernel_mask(bias, value, DIM))


def _packed(query, key, value):
    """Attend in rows of several samples; the results of padding are undefined, and set to 0."""
    is_real = paddle.to_tensor((SEGMENTS > 0)[:, None, :, None].astype(np.float32)).astype(value.dtype)
    return packed_attention(query, key, value, find_runs(SEGMENTS)) * is_real


def _rotary(x):
    return apply_rope(x, *rope_tables(paddle.to_tensor(POSITIONS), DIM, THETA, HEADS, name_of(x.dtype)))


QKV = tuple((2, heads, LENGTH, DIM) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
WIDE = (2, LENGTH, HIDDEN)
CASES = {
    kernels_in_use.DENSE: Case(QKV, _dense, numpy_operations.dense),
    kernels_in_use.MASKED: Case(QKV, _masked, lambda *x: numpy_operations.attend(*x, VISIBLE)),
    kernels_in_use.PACKED: Case(QKV, _packed, lambda *x: numpy_operations.packed(*x, SEGMENTS)),
    kernels_in_use.RMS_NORM: Case(
        (WIDE, (HIDDEN,)), lambda *x: rms_norm(*x, EPSILON), lambda *x: numpy_operations.rms_norm(*x, EPSILON)
    ),
    kernels_in_use.ROPE: Case((QKV[0],), _rotary, lambda x: numpy_operations.rotary(x, POSITIONS, THETA)),
    kernels_in_use.SWIGLU: Case((WIDE, WIDE), swiglu, numpy_operations.swiglu),
}


def check_operation(check: Check, operation: str, device: str) -> None:
    """Try an operation in each dtype that the device can compute; a failing dtype does not end the check."""
    for dtype in devices.DTYPES:
        print(f"== {operation} {dtype}", flush=True)  # the last mark in a log shows where a process died
        if not devices.can_compute(dtype, device):
            continue
        try:
            path = kernels_in_use.path_of(operation, device.partition(":")[0], dtype, DIM) or PLAIN
            forward, backward = _errors(CASES[operation], dtype)
        except Exception as error:  # the other dtypes are still to be tried
            check.fail(f"{dtype}: {of_error(error)}", _advice(device))
            check.values[dtype] = {"error": of_error(error)}
            continue
        check.values[dtype] = {"path": path, "forward": forward, "backward": backward}
        _judge(check, dtype, path, forward, backward, device)
    if check.status == WARNING:
        check.advice.append(
            "results are right without that kernel, but take more time and memory: a newer plugin may have it"
        )


def _judge(check: Check, dtype: str, path: str, forward: float, backward: float, device: str) -> None:
    good, bearable = TOLERANCES[dtype]
    text = f"{dtype}: {path}; off by {forward:.0e} forward, {backward:.0e} backward"
    worst = max(forward, backward)
    if worst <= good:
        check.say(text)
    elif worst <= bearable:
        check.say(f"{text}: the device rounds float32 to fewer digits")
    else:
        check.fail(f"{text}: more than {bearable:.0e} of the largest value", _advice(device))


def _advice(device: str) -> str:
    if device.startswith("cpu"):
        return "install a paddle of a supported version: pip install 'paddlepaddle>=3.0.0,<3.4'"
    return "compare the versions above with those that fit each other; send this report"


def _errors(case: Case, dtype: str) -> tuple[float, float]:
    """Return the largest error of the outputs, with and without gradients, and of the gradients.

    A gradient is compared along one random direction, where central differences in NumPy give the expected value. Its
    error is relative to the gradient's length.
    """
    random = np.random.default_rng(0)
    tensors = [
        paddle.to_tensor(random.standard_normal(shape).astype(np.float32)).astype(dtype) for shape in case.shapes
    ]
    values = [_array(tensor) for tensor in tensors]  # rounded to the dtype
    expected = case.expected(*values)
    slopes = random.standard_normal(expected.shape).astype(np.float32)
    with paddle.no_grad():
        alone = _array(case.run(*tensors))
    for tensor in tensors:
        tensor.stop_gradient = False
    out = case.run(*tensors)
    (out.astype("float32") * paddle.to_tensor(slopes)).sum().backward()
    forward = max(_difference(found, expected) for found in (alone, _array(out)))
    backward = [0.0]
    for index, tensor in enumerate(tensors):
        found, direction = _array(tensor.grad), random.standard_normal(tensor.shape)
        ends = [
            (case.expected(*values[:index], values[index] + step * direction, *values[index + 1 :]) * slopes).sum()
            for step in (STEP, -STEP)
        ]
        length = np.linalg.norm(found)
        wanted = (ends[0] - ends[1]) / (2 * STEP)
        backward.append(_difference((found * direction).sum() / length, wanted / length, 1))
    return forward, max(backward)


def _array(tensor) -> np.ndarray:
    return tensor.astype("float32").numpy().astype(np.float64)


def _difference(found, expected, size: float | None = None) -> float:
    """Return the largest difference relative to a size, None for the largest value; infinite for NaN."""
    difference = float(np.abs(found - expected).max() / (size or np.abs(expected).max()))
    return difference if np.isfinite(difference) else float("inf")
