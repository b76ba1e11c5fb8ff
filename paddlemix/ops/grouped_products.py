"""Products of many small matrices of different sizes in one call of MKL, on the memory where they are."""

from __future__ import annotations

import numpy as np

from .vector_math import PLAIN, ROW_MAJOR, TRANSPOSED, VectorMath


class GroupedProducts:
    """x @ y for groups of `count` pairs: x [rows, inner of the group], y [inner, columns of the group].

    rows, inner, columns: of each group. is_transposed: y is in memory as [columns, inner]. Matrices are contiguous.
    The result of a pair depends on no other pair.
    """

    def __init__(self, mkl: VectorMath, count: int, rows, inner, columns, *, is_transposed: bool = False):
        self._multiply = mkl.library.cblas_sgemm_batch
        rows, inner, columns = (np.array(sizes, np.int32) for sizes in np.broadcast_arrays(rows, inner, columns))
        number = len(rows)
        orders = np.full(number, PLAIN, np.int32), np.full(number, TRANSPOSED if is_transposed else PLAIN, np.int32)
        one, zero = np.ones(number, np.float32), np.zeros(number, np.float32)
        counts, y_steps = np.full(number, count, np.int32), inner if is_transposed else columns
        self._arrays = (*orders, rows, columns, inner, one, y_steps, zero, counts)
        x_order, y_order, rows, columns, inner, one, y_steps, zero, counts = (one.ctypes.data for one in self._arrays)
        self._sizes = ROW_MAJOR, x_order, y_order, rows, columns, inner, one
        self._steps, self._zero, self._last = (inner, y_steps, columns), zero, (number, counts)

    def __call__(self, x: int, y: int, out: int) -> None:
        """Write the products. x, y, out: where the addresses of the matrices are, int64 [groups * count]."""
        x_step, y_step, step = self._steps
        self._multiply(*self._sizes, x, x_step, y, y_step, self._zero, out, step, *self._last)
