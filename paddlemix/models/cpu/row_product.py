"""Products of a single row with a matrix, on a CPU by all threads.

The MKL of paddle's CPU builds does such a product with one thread, which reads memory at about half of the speed that
two reach; the products of a batch go to all threads. So a matrix is taken as a batch of blocks, without a copy.
"""

from __future__ import annotations

import math

import paddle
from paddle import _C_ops

SMALL = 1 << 18  # numbers of a matrix up to which more threads do not pay
MAX_BLOCKS = 16


def num_blocks(weight, num_threads: int) -> int:
    """Return how many blocks of rows so many threads take a matrix in best: 1 where more gain nothing."""
    if weight.dtype != paddle.float32 or not weight.place.is_cpu_place() or math.prod(weight.shape) <= SMALL:
        return 1
    return max(number for number in range(1, min(num_threads, MAX_BLOCKS) + 1) if weight.shape[0] % number == 0)


def row_product(row, weight, blocks: int):
    """Return row [1, K] times weight [K, N]: the sum of the products of so many blocks."""
    if blocks == 1:
        return _C_ops.matmul(row, weight, False, False)
    num_in, num_out = weight.shape
    row = _C_ops.reshape(row, [blocks, 1, num_in // blocks])
    products = _C_ops.matmul(row, _C_ops.reshape(weight, [blocks, num_in // blocks, num_out]), False, False)
    return _C_ops.sum(products, [0], None, False)


def transposed_row_product(row, weight, blocks: int):
    """Return row [1, K] times the transpose of weight [N, K]: the products of so many blocks behind each other."""
    if blocks == 1:
        return _C_ops.matmul(row, weight, False, True)
    num_out, num_in = weight.shape
    rows = _C_ops.expand(row, [blocks, 1, num_in])  # for one row for all, MKL would use one thread again
    products = _C_ops.matmul(rows, _C_ops.reshape(weight, [blocks, num_out // blocks, num_in]), False, True)
    return _C_ops.reshape(products, [1, num_out])
