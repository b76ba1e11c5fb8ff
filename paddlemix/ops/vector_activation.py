"""Activations with a sigmoid on a CPU, by MKL's functions on the memory of the tensors.

All steps of one part of a tensor follow each other while its numbers are in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import paddle

from .vector_math import array_of, vector_math

PART = 1 << 17  # elements of a part


def times_sigmoid(x, factor: float = 1.0):
    """Return x * sigmoid(factor * x). x: a tensor for which `is_usable` holds."""
    out = paddle.empty(x.shape, dtype="float32")
    source, result = (_rows(array_of(each)) for each in (x, out))
    for part, below in _parts(source):
        _add_exp(source[part], -factor, below)
        np.divide(source[part], below, out=result[part])
    return out


def silu_times(gate, up):
    """Return silu(gate) * up. gate and up: tensors of equal shape for which `is_usable` holds."""
    out = paddle.empty(gate.shape, dtype="float32")
    _silu_times(*(_rows(array_of(each)) for each in (gate, up, out)))
    return out


def silu_of_pair(x):
    """Return silu(gate) * up for x, gate and up concatenated along the last axis, for which `is_usable` holds."""
    width = x.shape[-1] // 2
    out = paddle.empty([*x.shape[:-1], width], dtype="float32")
    pair = _rows(array_of(x))
    _silu_times(pair[:, :width], pair[:, width:], _rows(array_of(out)))
    return out


def silu_times_grads(gate, up, grad) -> tuple:
    """Return the gradients of gate and up for the gradient of `silu_times`; all for which `is_usable` holds."""
    results = [paddle.empty(gate.shape, dtype="float32") for _ in range(2)]
    gates, ups, slopes, gate_grads, up_grads = (_rows(array_of(each)) for each in (gate, up, grad, *results))
    for part, sigmoid in _parts(gates):
        silu, rest = up_grads[part], gate_grads[part]
        _add_exp(gates[part], -1.0, sigmoid)
        np.reciprocal(sigmoid, out=sigmoid)
        np.multiply(gates[part], sigmoid, out=silu)
        # The derivative of x s(x) is s + x s (1 - s) = s (1 + x - x s).
        np.subtract(gates[part], silu, out=rest)
        rest += 1.0
        rest *= sigmoid
        rest *= slopes[part]
        rest *= ups[part]
        silu *= slopes[part]
    return tuple(results)


def _silu_times(gates: np.ndarray, ups: np.ndarray, out: np.ndarray) -> None:
    """Write silu(gates) * ups to out, all [N, F]."""
    for part, below in _parts(gates):
        _add_exp(gates[part], -1.0, below)
        np.divide(gates[part], below, out=out[part])
        np.multiply(out[part], ups[part], out=out[part])


def _add_exp(x: np.ndarray, factor: float, out: np.ndarray) -> None:
    """Write 1 + exp(factor * x) to contiguous out."""
    np.multiply(x, np.float32(factor), out=out)
    with vector_math().one_thread():
        vector_math().quick_exp(out)
    out += 1.0


def _rows(x: np.ndarray) -> np.ndarray:
    """Return contiguous x as a matrix with the same last axis."""
    return x.reshape(-1, x.shape[-1])


def _parts(x: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the rows of each part of x [N, F], and scratch of its shape."""
    step = max(PART // x.shape[1], 1)
    scratch = np.empty([min(step, len(x)), x.shape[1]], np.float32)
    for start in range(0, len(x), step):
        end = min(start + step, len(x))
        yield slice(start, end), scratch[: end - start]
