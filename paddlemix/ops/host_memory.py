"""Memory of parameters on the host, to write to without an intermediate copy."""

from __future__ import annotations

import ctypes

import numpy as np
import paddle


def new_memory(parameter) -> np.ndarray | None:
    """Allocate the memory of a lazily created parameter and return it, not zeroed, as an array of its shape.

    Return None and change nothing for a parameter that already has memory, is not float32, is empty, or belongs on a
    device. The array must not outlive the parameter. Large pages (madvise) were tried: fewer faults, but more time.
    """
    if not paddle.get_device().startswith("cpu") or parameter.dtype != paddle.float32 or not parameter.size:
        return None
    if parameter._is_initialized():
        return None
    parameter.get_tensor()._alloc_float(paddle.CPUPlace())
    parameter._init_func = None  # as `initialize` does, without setting values
    num_values = int(np.prod(parameter.shape))
    return np.ctypeslib.as_array((ctypes.c_float * num_values).from_address(parameter.data_ptr())).reshape(
        parameter.shape
    )
