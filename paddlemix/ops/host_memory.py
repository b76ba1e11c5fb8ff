"""The memory of parameters on the host, to write to without a copy between."""

from __future__ import annotations

import ctypes

import numpy as np
import paddle


def new_memory(parameter) -> np.ndarray | None:
    """Give a parameter that was made lazily its memory and return that, uncleared, as an array of its shape.

    None, and nothing is changed, for a parameter that has memory already, is no float32, is empty, or belongs on a
    device. The array must not outlive the parameter. Large pages were tried (madvise): fewer faults, but more time.
    """
    if not paddle.get_device().startswith("cpu") or parameter.dtype != paddle.float32 or not parameter.size:
        return None
    if parameter._is_initialized():
        return None
    parameter.get_tensor()._alloc_float(paddle.CPUPlace())
    parameter._init_func = None  # as `initialize` does: the values come from elsewhere
    num_values = int(np.prod(parameter.shape))
    return np.ctypeslib.as_array((ctypes.c_float * num_values).from_address(parameter.data_ptr())).reshape(
        parameter.shape
    )
