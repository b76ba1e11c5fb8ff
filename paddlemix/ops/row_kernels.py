"""Products of a few rows with a weight as loops that numba compiles for this processor, each in about half a second.

Only `compiled_loops` imports this file, because numba is an optional package. A function of `LOOPS` takes the address
of a job: int64 values, of which some are addresses themselves. Several threads may run the same job. Each takes the
next part of the outputs until none is left, so that a slow thread delays the others little.

All numbers are float32. Sums are taken in any order, but infinities and NaN keep their meaning. Dequantized weights are
bit-equal to those of plain operations.
"""

from __future__ import annotations

import functools

import numpy as np
from numba import carray, cfunc, njit, types

from .quantize import BLOCK, DYNAMIC, SCALE_BLOCK
from .vector_instructions import WIDTH, add, add_products, floats, integers, look_up, signed, unsigned

# The values of a job: a counter, sizes and addresses. Unused ones are 0.
# STRIDE: numbers from a row of the result to the next, of which this job writes the first NUM_OUT.
COUNTER, FINISHED, NUM_THREADS, NUM_ROWS, NUM_IN, NUM_OUT, STRIDE, ROWS, RESULT, WEIGHT = range(10)
SCALES = WEIGHT + 1  # int8: float32 [out]. NF4: the codes of the blocks' scales, then the next two
GROUP_SCALES, OFFSET = SCALES + 1, SCALES + 2
SUMS = WEIGHT + 1  # of `float_row`: memory for float32 [threads, out]
SIZE = OFFSET + 1

PART = 32  # outputs that a thread takes at a time
TILE = 1024  # inputs whose weights are computed at a time, so that they stay in the fastest cache; a multiple of BLOCK
REORDERING = {"reassoc", "contract", "nsz", "arcp"}


def int8_rows(address):
    """Multiply rows [R, in] with int8 codes [out, in] and the outputs' scales."""
    job = carray(integers(address), SIZE)
    num_rows, num_in, num_out = job[NUM_ROWS], job[NUM_IN], job[NUM_OUT]
    rows = carray(floats(job[ROWS]), (num_rows, num_in))
    result = carray(floats(job[RESULT]), (num_rows, job[STRIDE]))
    codes = carray(signed(job[WEIGHT]), (num_out, num_in))
    scales = carray(floats(job[SCALES]), num_out)
    weights = np.empty(TILE, np.float32)
    start = add(address, PART)
    while start < num_out:
        for out in range(start, min(start + PART, num_out)):
            if num_rows == 1:
                result[0, out] = _dot(codes[out], rows[0]) * scales[out]
            else:
                _int8_output(codes[out], scales[out], rows, weights, result[:, out])
        start = add(address, PART)


@njit
def _int8_output(codes, scale, rows, weights, result):
    """Write an output [R] of rows [R, in]."""
    result[:] = 0
    for first in range(0, len(codes), TILE):
        last = min(first + TILE, len(codes))
        _copy_scaled(codes[first:last], scale, weights)
        _add_dots(weights[: last - first], rows, first, result)


def int8_weights(address):
    """Write the weights [out, in] of int8 codes."""
    job = carray(integers(address), SIZE)
    num_in, num_out = job[NUM_IN], job[NUM_OUT]
    result = carray(floats(job[RESULT]), (num_out, num_in))
    codes = carray(signed(job[WEIGHT]), (num_out, num_in))
    scales = carray(floats(job[SCALES]), num_out)
    start = add(address, PART)
    while start < num_out:
        for out in range(start, min(start + PART, num_out)):
            _copy_scaled(codes[out], scales[out], result[out])
        start = add(address, PART)


@njit
def _copy_scaled(codes, scale, target):
    for number in range(len(codes)):
        target[number] = np.float32(codes[number]) * scale


def nf4_rows(address):
    """Multiply rows [R, in] with NF4 codes [out, in]; in is a multiple of the block."""
    job = carray(integers(address), SIZE)
    num_rows, num_in, num_out = job[NUM_ROWS], job[NUM_IN], job[NUM_OUT]
    rows = carray(floats(job[ROWS]), (num_rows, num_in))
    result = carray(floats(job[RESULT]), (num_rows, job[STRIDE]))
    num_blocks = num_in // BLOCK
    codes = carray(unsigned(job[SCALES]), num_out * num_blocks)
    groups = carray(floats(job[GROUP_SCALES]), num_out * num_blocks // SCALE_BLOCK + 1)
    offset = carray(floats(job[OFFSET]), 1)[0]
    scales, weights, sums = (
        np.empty(num_blocks, np.float32),
        np.empty(TILE, np.float32),
        np.empty(4 * WIDTH, np.float32),
    )
    row = _sorted_blocks(rows[0])
    start = add(address, PART)
    while start < num_out:
        for out in range(start, min(start + PART, num_out)):
            _fill_scales(codes, groups, offset, out * num_blocks, scales)
            place = job[WEIGHT] + out * num_in // 2
            if num_rows == 1:
                result[0, out] = _nf4_dot(place, scales, row.ctypes.data, sums)
            else:
                _nf4_output(place, scales, rows, weights, result[:, out])
        start = add(address, PART)


@njit
def _sorted_blocks(row):
    """Return a row [in] with each block's even places before its odd ones, as `add_products` reads it."""
    result = np.empty(len(row), np.float32)
    for start in range(0, len(row), BLOCK):
        for number in range(BLOCK // 2):
            result[start + number] = row[start + 2 * number]
            result[start + BLOCK // 2 + number] = row[start + 2 * number + 1]
    return result


@njit(fastmath=REORDERING)
def _nf4_dot(codes, scales, row, sums):
    """Return the product of an output's weights with a sorted row at an address. sums: memory for four times 16."""
    sums[:] = 0
    for block in range(len(scales)):
        place, inputs = codes + block * (BLOCK // 2), row + 4 * block * BLOCK
        target = sums.ctypes.data + 8 * WIDTH * (block % 2)  # in turn, because each sum waits for the one before
        add_products(place, scales[block], inputs, target)
        add_products(place + WIDTH, scales[block], inputs + 4 * WIDTH, target + 4 * WIDTH)
    total = np.float32(0)
    for number in range(len(sums)):
        total += sums[number]
    return total


@njit
def _nf4_output(codes, scales, rows, weights, result):
    """Write an output [R] of rows [R, in]."""
    result[:] = 0
    num_in = rows.shape[1]
    for first in range(0, num_in, TILE):
        last = min(first + TILE, num_in)
        _write_blocks(codes + first // 2, scales[first // BLOCK : last // BLOCK], weights.ctypes.data)
        _add_dots(weights[: last - first], rows, first, result)


def nf4_weights(address):
    """Write the weights [out, in] of NF4 codes: out blocks of in = 64 weights, whatever the shape of the matrix is."""
    job = carray(integers(address), SIZE)
    num_blocks = job[NUM_OUT]
    codes = carray(unsigned(job[SCALES]), num_blocks)
    groups = carray(floats(job[GROUP_SCALES]), num_blocks // SCALE_BLOCK + 1)
    offset = carray(floats(job[OFFSET]), 1)[0]
    scales = np.empty(SCALE_BLOCK, np.float32)
    start = add(address, SCALE_BLOCK)
    while start < num_blocks:
        part = scales[: min(SCALE_BLOCK, num_blocks - start)]
        _fill_scales(codes, groups, offset, start, part)
        _write_blocks(job[WEIGHT] + start * (BLOCK // 2), part, job[RESULT] + 4 * start * BLOCK)
        start = add(address, SCALE_BLOCK)


@njit
def _fill_scales(codes, groups, offset, first, scales):
    """Write the scales of the blocks from `first` on."""
    for number in range(len(scales)):
        block = first + number
        scales[number] = DYNAMIC[codes[block]] * groups[block // SCALE_BLOCK] + offset


@njit
def _write_blocks(codes, scales, target):
    """Write the weights of consecutive blocks to an address."""
    for block in range(len(scales)):
        place, start = codes + block * (BLOCK // 2), target + 4 * block * BLOCK
        look_up(place, scales[block], start)
        look_up(place + WIDTH, scales[block], start + 8 * WIDTH)


def float_row(address):
    """Multiply a row [1, in] with a weight [in, out]: each thread with a share of the inputs, the last one adds up.

    With one thread, the memory for its sums is the result.
    """
    job = carray(integers(address), SIZE)
    num_in, num_out, num_parts = job[NUM_IN], job[NUM_OUT], job[NUM_THREADS]
    row = carray(floats(job[ROWS]), num_in)
    weight = carray(floats(job[WEIGHT]), (num_in, num_out))
    sums = carray(floats(job[SUMS]), (num_parts, num_out))
    part = add(address, 1)
    while part < num_parts:
        first, last = part * num_in // num_parts, (part + 1) * num_in // num_parts
        _multiply(row[first:last], weight[first:last], sums[part])
        if num_parts > 1 and add(address + 8 * FINISHED, 1) == num_parts - 1:
            _add_up(sums, carray(floats(job[RESULT]), num_out))
        part = add(address, 1)


@njit(fastmath=REORDERING)
def _multiply(row, weight, total):
    """Write row [in] times weight [in, out]; eight inputs at once, so that totals are read and written less often."""
    total[:] = 0
    num_eights = len(row) // 8
    for first in range(0, 8 * num_eights, 8):
        a, b, c, d = row[first], row[first + 1], row[first + 2], row[first + 3]
        e, f, g, h = row[first + 4], row[first + 5], row[first + 6], row[first + 7]
        part = weight[first : first + 8]
        for out in range(len(total)):
            low = a * part[0, out] + b * part[1, out] + c * part[2, out] + d * part[3, out]
            high = e * part[4, out] + f * part[5, out] + g * part[6, out] + h * part[7, out]
            total[out] += low + high
    for number in range(8 * num_eights, len(row)):
        for out in range(len(total)):
            total[out] += row[number] * weight[number, out]


@njit
def _add_up(sums, result):
    result[:] = 0
    for part in range(len(sums)):
        for out in range(len(result)):
            result[out] += sums[part, out]


def float_row_transposed(address):
    """Multiply a row [1, in] with the transpose of a weight [out, in]."""
    job = carray(integers(address), SIZE)
    num_in, num_out = job[NUM_IN], job[NUM_OUT]
    row = carray(floats(job[ROWS]), num_in)
    weight = carray(floats(job[WEIGHT]), (num_out, num_in))
    result = carray(floats(job[RESULT]), num_out)
    start = add(address, PART)
    while start < num_out:
        for out in range(start, min(start + PART, num_out)):
            result[out] = _dot(weight[out], row)
        start = add(address, PART)


@njit(fastmath=REORDERING)
def _dot(weights, row):
    total = np.float32(0)
    for number in range(len(row)):
        total += np.float32(weights[number]) * row[number]
    return total


@njit(fastmath=REORDERING)
def _add_dots(weights, rows, first, result):
    """Add to result [R] the products of weights with as many places of rows [R, in] from `first` on.

    Four rows at once, so that weights are read less often. A slice of all rows would have a stride that the compiler
    does not know.
    """
    last = first + len(weights)
    num_fours = len(rows) // 4
    for row in range(0, 4 * num_fours, 4):
        one, two, three, four = (
            rows[row, first:last],
            rows[row + 1, first:last],
            rows[row + 2, first:last],
            rows[row + 3, first:last],
        )
        a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for number in range(len(weights)):
            weight = weights[number]
            a += weight * one[number]
            b += weight * two[number]
            c += weight * three[number]
            d += weight * four[number]
        result[row] += a
        result[row + 1] += b
        result[row + 2] += c
        result[row + 3] += d
    for row in range(4 * num_fours, len(rows)):
        result[row] += _dot(weights, rows[row, first:last])


LOOPS = (int8_rows, nf4_rows, int8_weights, nf4_weights, float_row, float_row_transposed)


@functools.cache
def address_of(name: str) -> int:
    """Return the address of a loop's code for this processor."""
    return _compiled(name).address


@functools.cache
def _compiled(name: str):
    loop = next(loop for loop in LOOPS if loop.__name__ == name)
    return cfunc(types.void(types.intp), error_model="numpy")(loop)
