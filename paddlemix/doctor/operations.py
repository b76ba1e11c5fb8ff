"""Each operation on the device against the same one in NumPy on the CPU in float64, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import paddle

from .. import device as devices
from ..ops import paths
from ..ops.attention import MASKED, attention, fitting_mask
from ..ops.kernels import name_of
from ..ops.packed_attention import find_runs, packed_attention
from ..ops.rms_norm import rms_norm
from ..ops.rope import apply_rope, rope_tables
from ..ops.swiglu import swiglu
from . import numpy_operations
from .check import Check
from .error_text import of_error

DIM, HEADS, KEY_HEADS, LENGTH = 64, 4, 2, 48  # two query heads share a key head
HIDDEN = 128
EPSILON, THETA = 1e-5, 1e4
POSITIONS = np.stack([np.arange(LENGTH), np.arange(LENGTH) + 200])
VISIBLE = np.random.default_rng(3).random([2, 1, LENGTH, LENGTH]) > 0.5
VISIBLE[..., 0] = True
STEP = 1e-4  # of central differences
SEGMENTS = np.array([[1] * 20 + [2] * 28, [1] * 30 + [2] * 10 + [0] * 8])
# Largest difference, as a part of the largest value. Up to the second one a device rounds float32 to fewer digits.
TOLERANCES = {"float32": (1e-4, 5e-3), "float16": (2e-2, 2e-2), "bfloat16": (4e-2, 4e-2)}
PLAIN = "plain operations"


@dataclass(frozen=True)
class Trial:
    """run: a function of tensors of these shapes, whose values are drawn at random; expected: the same in NumPy."""

    shapes: tuple[tuple[int, ...], ...]
    run: Callable
    expected: Callable


def _dense(query, key, value):
    """Attend causally as a decoder does, and then to everything as a vision tower does."""
    return attention(query, key, value, is_causal=True) + attention(query, key, value)


def _masked(query, key, value):
    """Attend with a mask that hides other keys in each row, in the form that the device takes."""
    bias = paddle.to_tensor(np.where(VISIBLE, 0.0, MASKED).astype(np.float32))
    return attention(query, key, value, bias=fitting_mask(bias, value, DIM))


def _packed(query, key, value):
    """Attend in rows of several samples; what padding gives means nothing."""
    is_real = paddle.to_tensor((SEGMENTS > 0)[:, None, :, None].astype(np.float32)).astype(value.dtype)
    return packed_attention(query, key, value, find_runs(SEGMENTS)) * is_real


def _rotary(x):
    return apply_rope(x, *rope_tables(paddle.to_tensor(POSITIONS), DIM, THETA, HEADS, name_of(x.dtype)))


QKV = tuple((2, heads, LENGTH, DIM) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
WIDE = (2, LENGTH, HIDDEN)
TRIALS = {
    paths.DENSE: Trial(QKV, _dense, numpy_operations.dense),
    paths.MASKED: Trial(QKV, _masked, lambda *x: numpy_operations.attend(*x, VISIBLE)),
    paths.PACKED: Trial(QKV, _packed, lambda *x: numpy_operations.packed(*x, SEGMENTS)),
    paths.RMS_NORM: Trial(
        (WIDE, (HIDDEN,)), lambda *x: rms_norm(*x, EPSILON), lambda *x: numpy_operations.rms_norm(*x, EPSILON)
    ),
    paths.ROPE: Trial((QKV[0],), _rotary, lambda x: numpy_operations.rotary(x, POSITIONS, THETA)),
    paths.SWIGLU: Trial((WIDE, WIDE), swiglu, numpy_operations.swiglu),
}


def check_operation(check: Check, operation: str, device: str) -> None:
    """Try an operation in each dtype that the device computes in. A dtype that fails does not hide the others."""
    for dtype in devices.DTYPES:
        print(f"== {operation} {dtype}", flush=True)  # where a log ends tells what a process died of
        if not devices.can_compute(dtype, device):
            continue
        try:
            path = paths.path_of(operation, device.partition(":")[0], dtype, DIM) or PLAIN
            forward, backward = _errors(TRIALS[operation], dtype)
        except Exception as error:  # whatever it is, the other dtypes are still to be seen
            check.fail(f"{dtype}: {of_error(error)}", _advice(device))
            check.values[dtype] = {"error": of_error(error)}
            continue
        check.values[dtype] = {"path": path, "forward": forward, "backward": backward}
        _judge(check, dtype, path, forward, backward, device)
    _tell_unused(check, device)


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
        return "install the paddle that requirements.txt names"
    return "compare the versions above with those that fit each other; send this report"


def _tell_unused(check: Check, device: str) -> None:
    """Say what a kernel that is not used costs."""
    if check.status == "warning":
        check.advice.append(
            "results are right without that kernel, but take more time and memory: a newer plugin may have it"
        )


def _errors(trial: Trial, dtype: str) -> tuple[float, float]:
    """Return the largest difference of outputs, with and without gradients, and of gradients.

    A gradient is compared along one direction, where central differences give the expected one, as a part of its
    length.
    """
    random = np.random.default_rng(0)
    tensors = [
        paddle.to_tensor(random.standard_normal(shape).astype(np.float32)).astype(dtype) for shape in trial.shapes
    ]
    values = [_array(tensor) for tensor in tensors]  # as they were rounded
    expected = trial.expected(*values)
    slopes = random.standard_normal(expected.shape).astype(np.float32)
    with paddle.no_grad():
        alone = _array(trial.run(*tensors))
    for tensor in tensors:
        tensor.stop_gradient = False
    out = trial.run(*tensors)
    (out.astype("float32") * paddle.to_tensor(slopes)).sum().backward()
    forward = max(_difference(found, expected) for found in (alone, _array(out)))
    backward = [0.0]
    for place, tensor in enumerate(tensors):
        found, direction = _array(tensor.grad), random.standard_normal(tensor.shape)
        ends = [
            (trial.expected(*values[:place], values[place] + step * direction, *values[place + 1 :]) * slopes).sum()
            for step in (STEP, -STEP)
        ]
        wanted = (ends[0] - ends[1]) / (2 * STEP)
        backward.append(
            _difference((found * direction).sum() / np.linalg.norm(found), wanted / np.linalg.norm(found), 1)
        )
    return forward, max(backward)


def _array(tensor) -> np.ndarray:
    return tensor.astype("float32").numpy().astype(np.float64)


def _difference(found, expected, size: float | None = None) -> float:
    """Return the largest difference as a part of the largest value, or of a size; infinite without numbers."""
    difference = float(np.abs(found - expected).max() / (size or np.abs(expected).max()))
    return difference if np.isfinite(difference) else float("inf")
