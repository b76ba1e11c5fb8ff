"""Products of a few rows with weights on a CPU: from quantized codes without their weights, and in float32.

Decoding multiplies one row with every weight, so that its time is the time to read the weights. Dequantizing first
reads the codes and writes and reads the weights. The loops are compiled by numba, an optional package; without it, or
if a trial finds wrong values, plain operations are used.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence

import numpy as np
import paddle
from paddle import _C_ops

from ..terminal.log import notice
from .compiled_loops import has_numba, run, threads_for
from .dequantize import dequantize, kind_of_codes, on_device, tensors_of
from .kernel_checks import agrees
from .quantize import BLOCK, Codes, Int8Codes, quantize

MAX_ROWS = 16  # with more rows, dequantizing and MKL's product are faster


def product_with_codes(x, *parts: Codes):
    """Return x [..., in] times the transpose of each weight [out, in], side by side, without a gradient.

    All parts are of one kind. With few rows on a CPU, no weight is dequantized.
    """
    shape = x.shape
    num_rows = math.prod(shape[:-1])
    if not (_is_for_few_rows(x, num_rows, parts[0]) and has_kernel(kind_of_codes(parts[0]))):
        return paddle.matmul(x, dequantize(parts[0], x.dtype, *parts[1:]), transpose_y=True)
    if len(shape) == 2:
        return rows_times_codes(x, parts)
    product = rows_times_codes(_C_ops.reshape(x, [num_rows, shape[-1]]), parts)
    return _C_ops.reshape(product, [*shape[:-1], product.shape[1]])


def _is_for_few_rows(x, num_rows: int, codes: Codes) -> bool:
    """Return whether `rows_times_codes` can multiply the rows of x [..., in] and pays, if there is a kernel."""
    if not 0 < num_rows <= MAX_ROWS or x.dtype != paddle.float32 or not x.place.is_cpu_place():
        return False
    return isinstance(codes, Int8Codes) or (codes.shape[1] % BLOCK == 0 and codes.has_whole_groups)


def rows_times_codes(rows, parts: Sequence[Codes]):
    """Return float32 rows [R, in] on the CPU times the transpose of each weight [out, in], side by side.

    The result is [R, sum of out]. NF4: in is a multiple of 64. Requires numba; see `has_kernel`.
    """
    rows = rows if rows.is_contiguous() else rows.contiguous()
    num_rows, num_in = rows.shape
    width = sum(codes.shape[0] for codes in parts)
    result = _C_ops.empty([num_rows, width], paddle.float32, rows.place)
    place = result.data_ptr()
    for codes in parts:
        num_out = codes.shape[0]
        threads = threads_for(num_in * num_out * num_rows)
        addresses = [tensor.data_ptr() for tensor in tensors_of(codes)]
        sizes = [num_rows, num_in, num_out, width]
        run(f"{kind_of_codes(codes)}_rows", sizes, [rows.data_ptr(), place, *addresses], threads)
        place += 4 * num_out
    return result


def row_times_weight(row, weight, is_transposed: bool = False):
    """Return a float32 row [1, in] on the CPU times weight [in, out], or times the transpose of a weight [out, in].

    Both are contiguous. Requires numba; see `has_kernel`.
    """
    num_in, num_out = weight.shape[::-1] if is_transposed else weight.shape
    threads = threads_for(num_in * num_out)
    result = _C_ops.empty([1, num_out], paddle.float32, row.place)
    sums = result if is_transposed or threads == 1 else _C_ops.empty([threads, num_out], paddle.float32, row.place)
    addresses = [tensor.data_ptr() for tensor in (row, result, weight, sums)]
    loop = "float_row_transposed" if is_transposed else "float_row"
    run(loop, [1, num_in, num_out, num_out], addresses, threads)
    return result


@functools.cache
def has_kernel(kind: str) -> bool:
    """Return whether there are correct loops for a kind: "int8", "nf4" or "float32". The first call compiles them.

    Without numba, there is one notice for quantized weights. float32 is only slightly slower without it.
    """
    if os.environ.get("PADDLEMIX_PLAIN_OPS", "0") not in ("", "0"):
        return False
    if has_numba():
        return all(_is_correct(kind, num_rows) for num_rows in ((1,) if kind == "float32" else (1, 3)))
    if kind != "float32":
        report_missing()
    return False


@functools.cache
def report_missing() -> None:
    """Say once that quantized weights are slow here, if they are: on a CPU without numba."""
    if paddle.get_device() != "cpu" or has_numba():
        return
    notice("quantized weights are slow on a CPU without numba: pip install 'numba>=0.61'")


def _is_correct(kind: str, num_rows: int) -> bool:
    """Return whether the loops of a kind compute what plain operations do, with several threads and tiles."""
    num_in, num_out = 18 * BLOCK, 72
    if kind == "float32":
        shapes = [[1, num_in], [num_in, num_out]]
        return agrees("numba's product of a row", _both_ways, _both_ways_plainly, shapes, kind, has_gradient=False)
    weight = np.random.default_rng(2).standard_normal([num_out, num_in]).astype(np.float32)
    codes = on_device(quantize(weight, kind))

    def kernel(rows):
        return rows_times_codes(rows, [codes, codes])

    def plain(rows):
        product = paddle.matmul(rows, dequantize(codes, rows.dtype), transpose_y=True)
        return paddle.concat([product, product], axis=-1)

    return agrees(
        f"numba's product with {kind} codes", kernel, plain, [[num_rows, num_in]], "float32", has_gradient=False
    )


def _both_ways(row, weight):
    transpose = weight.transpose([1, 0]).contiguous()
    return paddle.concat([row_times_weight(row, weight), row_times_weight(row, transpose, is_transposed=True)])


def _both_ways_plainly(row, weight):
    product = paddle.matmul(row, weight)
    return paddle.concat([product, product])
