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
    is_float_on_cpu = paddle.get_device().startswith("cpu") and parameter.dtype == paddle.float32
    if not is_float_on_cpu or not parameter.size or parameter._is_initialized():
        return None
    parameter.get_tensor()._alloc_float(paddle.CPUPlace())
    parameter._init_func = None  # as `initialize` does, without setting values
    memory = (ctypes.c_float * int(parameter.size)).from_address(parameter.data_ptr())
    return np.ctypeslib.as_array(memory).reshape(parameter.shape)
