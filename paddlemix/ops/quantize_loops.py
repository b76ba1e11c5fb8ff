"""The passes of `quantize` over a matrix as loops that numba compiles, with the same codes to the last bit.

Only `quantize` imports this file, because numba is an optional package. The loops let other Python threads run.
"""

from __future__ import annotations

import numpy as np
from numba import njit

NO_SIGN = np.int32(0x7FFFFFFF)


@njit(nogil=True)
def fill_int8(smallest, rows, codes, largest):
    """Write the codes int8 [R, n] of rows [R, n], and the rows' largest absolute values [R].

    smallest: the least divisor.
    """
    bits = rows.view(np.int32)
    for row in range(len(rows)):
        largest[row] = _largest(bits[row])
        scale = np.float32(127) / max(largest[row], smallest)
        for number in range(rows.shape[1]):
            codes[row, number] = np.int8(np.rint(rows[row, number] * scale))


@njit(nogil=True)
def fill_nf4(middles, smallest, blocks, codes, largest):
    """Write the codes uint8 [B, n / 2] of blocks [B, n], and the blocks' largest absolute values [B].

    middles: the 15 borders between NF4's values. smallest: the least divisor.
    """
    bits = blocks.view(np.int32)
    m0, m1, m2, m3, m4 = middles[0], middles[1], middles[2], middles[3], middles[4]
    m5, m6, m7, m8, m9 = middles[5], middles[6], middles[7], middles[8], middles[9]
    m10, m11, m12, m13, m14 = middles[10], middles[11], middles[12], middles[13], middles[14]
    digits = np.empty(blocks.shape[1], np.int32)
    for block in range(len(blocks)):
        largest[block] = _largest(bits[block])
        scale = np.float32(1) / max(largest[block], smallest)
        for number in range(len(digits)):
            x = blocks[block, number] * scale
            low = np.int32(x > m0) + np.int32(x > m1) + np.int32(x > m2) + np.int32(x > m3) + np.int32(x > m4)
            middle = np.int32(x > m5) + np.int32(x > m6) + np.int32(x > m7) + np.int32(x > m8) + np.int32(x > m9)
            high = np.int32(x > m10) + np.int32(x > m11) + np.int32(x > m12) + np.int32(x > m13) + np.int32(x > m14)
            digits[number] = low + middle + high
        for number in range(len(digits) // 2):
            codes[block, number] = np.uint8(digits[2 * number] << 4 | digits[2 * number + 1])


@njit
def _largest(bits):
    """Return the largest absolute value of float32 numbers by their bits, whose order is that of the numbers.

    A comparison of integers can be vectorized, and NaN is larger than all numbers.
    """
    found = np.empty(1, np.int32)
    found[0] = 0
    most = np.int32(0)
    for number in range(len(bits)):
        most = max(most, bits[number] & NO_SIGN)
    found[0] = most
    return found.view(np.float32)[0]
