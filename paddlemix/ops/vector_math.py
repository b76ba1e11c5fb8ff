"""MKL's vector functions and matrix products, on the memory of float32 tensors of the CPU.

On a CPU, Paddle computes elementwise functions with one thread and slowly. The MKL library of its x86 wheels exports
faster ones, and products that read and write parts of tensors without copies. They use as many threads as MKL has in
the calling thread. NumPy does the rest: it is fast on memory that is in the processor's cache, and releases the
interpreter's lock.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle

from ..terminal.log import notice
from .kernel_checks import product_dtype

MODERATE = 60.0  # sums of exp(x) and of exp(-x) are normal float32 numbers up to here
EXACT_AND_QUIET = 0x102  # modes of MKL's vector functions: high accuracy, and no report of each extreme result
ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112  # from mkl_cblas.h
FLOAT_BYTES = 4
COUNT, NUMBER, POINTER = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
MATRIX = [POINTER, COUNT]  # with the distance between rows
SIGNATURES = {
    "vmsExp": [COUNT, POINTER, POINTER, ctypes.c_int64],
    "vsMul": [COUNT, POINTER, POINTER, POINTER],
    "cblas_sgemm": [*[COUNT] * 6, NUMBER, *MATRIX, *MATRIX, NUMBER, *MATRIX],
    "cblas_sgemv": [*[COUNT] * 4, NUMBER, *MATRIX, *MATRIX, NUMBER, *MATRIX],
    "cblas_sgemm_batch": [COUNT, *[POINTER] * 13, COUNT, POINTER],
    "cblas_sger": [*[COUNT] * 3, NUMBER, *MATRIX, *MATRIX, *MATRIX],
}


class VectorMath:
    """Functions of float32 arrays, most of which change one of them. Errors are ours and would reach other memory."""

    def __init__(self, library):
        self.library = library

    @contextlib.contextmanager
    def one_thread(self) -> Iterator[None]:
        """Use one thread for the calls within, where MKL's threads would wait for each other longer than they work."""
        before = self.library.MKL_Set_Num_Threads_Local(1)
        try:
            yield
        finally:
            self.library.MKL_Set_Num_Threads_Local(before)

    def exp(self, x: np.ndarray) -> None:
        """Replace contiguous x by exp(x).

        For results that are zero, infinite or denormal, MKL takes a hundred times as long, and NumPy as long as ever.
        """
        if is_moderate(x):
            self.quick_exp(x)
            return
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            np.exp(x, out=x)

    def quick_exp(self, x: np.ndarray) -> None:
        """Replace contiguous x by exp(x), quickly where x is moderate; denormal results may be 0."""
        assert x.flags.c_contiguous, x.strides
        self.library.vmsExp(x.size, _address(x), _address(x), EXACT_AND_QUIET)

    def multiply(self, x: np.ndarray, y: np.ndarray) -> None:
        """Replace x by x * y; both contiguous."""
        assert x.size == y.size and x.flags.c_contiguous and y.flags.c_contiguous, (x.strides, y.strides)
        self.library.vsMul(x.size, _address(x), _address(y), _address(x))

    def matmul(self, out: np.ndarray, x: np.ndarray, y: np.ndarray, scale: float = 1.0, kept: float = 0.0) -> None:
        """Write scale * (x @ y) + kept * out to out. x and y may be transposed views."""
        (rows, inner), columns = x.shape, y.shape[1]
        assert y.shape[0] == inner and out.shape == (rows, columns), (out.shape, x.shape, y.shape)
        (x_order, x_step), (y_order, y_step), (order, step) = _layout(x), _layout(y), _layout(out)
        assert order == PLAIN, out.strides
        sizes = (ROW_MAJOR, x_order, y_order, rows, columns, inner)
        self.library.cblas_sgemm(*sizes, scale, _address(x), x_step, _address(y), y_step, kept, _address(out), step)

    def add_to_rows(self, x: np.ndarray, values: np.ndarray, factor: float) -> None:
        """Add factor * values [N] or [N, 1] to the rows of contiguous x [N, S]; faster than NumPy's broadcasting."""
        rows, columns = x.shape
        assert len(values) == rows == values.size and x.flags.c_contiguous, (values.shape, x.shape, x.strides)
        ones = ones_of(columns)
        vectors = (_address(values), max(values.strides[0] // FLOAT_BYTES, 1), _address(ones), 1)
        self.library.cblas_sger(ROW_MAJOR, rows, columns, factor, *vectors, _address(x), columns)

    def row_sums(self, x: np.ndarray) -> np.ndarray:
        """Return the sums [N] of contiguous x [N, S]."""
        assert x.flags.c_contiguous, x.strides
        rows, columns = x.shape
        sums, ones = np.empty(rows, np.float32), ones_of(columns)
        sizes, vector = (ROW_MAJOR, PLAIN, rows, columns), (_address(ones), 1)
        self.library.cblas_sgemv(*sizes, 1.0, _address(x), columns, *vector, 0.0, _address(sums), 1)
        return sums


def is_moderate(x: np.ndarray) -> bool:
    """Return whether all x are so close to 0 that sums of exp(x) neither overflow nor vanish. False for NaN."""
    return bool(x.min() >= -MODERATE and x.max() <= MODERATE)


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _layout(matrix: np.ndarray) -> tuple[int, int]:
    """Return the order of a matrix for MKL, and the distance of its rows, or of its columns if it is transposed."""
    (rows, columns), (by_row, by_column) = matrix.shape, (stride // FLOAT_BYTES for stride in matrix.strides)
    if by_column == 1:
        return PLAIN, max(by_row, columns)
    assert by_row == 1, matrix.strides
    return TRANSPOSED, max(by_column, rows)


def ones_of(length: int) -> np.ndarray:
    """Return a vector of ones, which must not be changed."""
    return _ones(1 << (length - 1).bit_length())[:length]


@functools.cache
def _ones(length: int) -> np.ndarray:
    return np.ones(length, np.float32)


class TensorMemory:
    """Describes a tensor's memory to NumPy, and keeps the tensor as long as an array uses it."""

    def __init__(self, tensor):
        self.tensor = tensor
        shape, address = tuple(tensor.shape), tensor.data_ptr()
        self.__array_interface__ = {"version": 3, "typestr": "<f4", "shape": shape, "data": (address, False)}


def array_of(tensor) -> np.ndarray:
    """Return an array that shares the memory of a tensor for which `is_usable` holds."""
    return np.asarray(TensorMemory(tensor))


def is_usable(*tensors) -> bool:
    """Return whether there is a `vector_math` here that can read these tensors.

    Gradients are the caller's concern: automatic differentiation sees nothing of what is done to arrays.
    """
    for tensor in tensors:
        is_float = tensor.dtype == paddle.float32 and tensor.place.is_cpu_place()
        if not (is_float and tensor.is_contiguous() and tensor.size):
            return False
    is_cpu = paddle.get_device() == "cpu"  # where results are allocated
    is_mixed = product_dtype(paddle.float32) != "float32"
    return is_cpu and not is_mixed and vector_math() is not None


@functools.cache
def vector_math() -> VectorMath | None:
    """Return MKL's functions, or None where they are missing, disabled, or not right."""
    if os.environ.get("PADDLEMIX_PLAIN_OPS", "0") not in ("", "0"):
        return None
    library = _load()
    if library is None:
        return None
    wrong = sorted({name for name, is_right in trials(VectorMath(library)) if not is_right})
    if wrong:
        names = ", ".join(wrong)
        notice(f"MKL's functions are not used here, other operations replace them: different values of {names}")
    return None if wrong else VectorMath(library)


def _load():
    """Return the library of paddle's wheel, or None if it is missing or lacks a function."""
    for path in sorted((Path(paddle.__file__).parent / "libs").glob("*mkl*")):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(str(path))
            for name, signature in SIGNATURES.items():
                function = getattr(library, name)
                function.argtypes, function.restype = signature, None
            library.MKL_Set_Num_Threads_Local.argtypes = [COUNT]
            return library
    return None


def trials(functions: VectorMath) -> Iterator[tuple[str, bool]]:
    """Yield the name of each function and whether it is right, for odd sizes and for extreme values."""
    for rows, columns in ((1, 1), (1, 7), (3, 64), (65, 37)):
        random = np.random.default_rng(rows)
        x, y, row = (random.standard_normal([count, columns]).astype(np.float32) for count in (rows, rows, 1))
        extreme = np.resize(np.float32([-1e9, -np.inf, np.inf, 1e-40, 0.0, 90.0, -95.0]), [rows, columns])
        for values in (x * 9, extreme):
            for function in (functions.exp, functions.quick_exp):
                yield "exp", _is_right(function, values, expected=np.exp(values.astype(np.float64)))
        yield "multiply", _is_right(functions.multiply, x, y, expected=x * y)
        sums = x.sum(axis=1, dtype=np.float64)
        yield "row sums", _is_right(lambda out, x=x: np.copyto(out, functions.row_sums(x)), sums, expected=sums)
        yield "sums with rows", _is_right(functions.add_to_rows, x, y[:, 0].copy(), -1.0, expected=x - y[:, :1])
        square = np.full([columns, columns], 2.0)
        yield "products", _is_right(functions.matmul, square, x.T, y, 0.5, 1.0, expected=x.T @ y * 0.5 + 2.0)
        yield "products", _is_right(functions.matmul, x[:, :1], y, row.T, expected=y @ row.T)


def _is_right(function, out: np.ndarray, *arguments, expected: np.ndarray) -> bool:
    """Return whether a call changes a copy of out to the expected values."""
    found = np.array(out, np.float32)
    function(found, *arguments)
    with np.errstate(over="ignore"):
        return np.allclose(found, expected.astype(np.float32), rtol=1e-5, atol=1e-5)
