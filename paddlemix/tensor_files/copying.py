"""Copies of arrays into existing memory, transposed and widened on the way, so that a weight is copied once.

A matrix stored as [out, in] is transposed in tiles that fit into the processor's cache. NumPy is slow to move single
values that are far apart, so pieces of 16 bytes, several values of a row, are transposed first.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

TILE_ROWS, TILE_COLUMNS = 512, 256
RUN = 1 << 15  # values that are widened at a time
PIECE = np.dtype(np.complex128)  # 16 bytes, the largest type that NumPy copies
# float16 has an exponent of 5 bits with a bias of 15, float32 one of 8 with a bias of 127 (IEEE 754).
NUM_MORE_DIGITS, KEEP_SIGN_AND_VALUE, SCALE = 13, np.int32(-0x70000001), np.float32(2.0 ** (127 - 15))
NO_SIGN, INFINITY = np.int16(0x7FFF), 0x7C00  # bits of float16; those of NaN are larger


def copy_into(target: np.ndarray, values: np.ndarray, dtype: str) -> None:
    """Write values, with bfloat16 as bits in uint16, into a contiguous array of their shape.

    target: in the storage dtype of the values, or float32. The values may be a transposed view.
    """
    assert target.flags.c_contiguous and target.shape == values.shape, (target.shape, values.shape)
    if values.ndim == 2 and not values.flags.c_contiguous and values.strides[0] == values.itemsize:
        _transpose(target, values.T, dtype)
        return
    if values.flags.c_contiguous:
        target, values = target.reshape(-1), values.reshape(-1)
    row = max(values[:1].size, 1) if values.ndim else 1
    for rows in ranges(len(target), max(RUN // row, 1)):
        _convert(target[rows], values[rows], dtype)


def widened(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return floats that NumPy can compute with: bits of bfloat16 become float32, other dtypes stay."""
    if dtype != "bfloat16":
        return values
    return (values.astype(np.uint32) << 16).view(np.float32)


def _transpose(target: np.ndarray, source: np.ndarray, dtype: str) -> None:
    """Write the transposed source, whose rows are contiguous."""
    num_rows, num_columns = source.shape
    size = PIECE.itemsize // source.itemsize  # values of a piece
    num_whole = num_columns // size
    pieces = source[:, : num_whole * size].view(PIECE)
    places = target[: num_whole * size].reshape(num_whole, size, num_rows)
    for columns in ranges(num_whole, max(TILE_COLUMNS // size, 1)):
        for rows in ranges(num_rows, TILE_ROWS):
            tile = np.ascontiguousarray(pieces[rows, columns].T)
            values = tile.view(source.dtype).reshape(*tile.shape, size).swapaxes(1, 2)
            _convert(places[columns, :, rows], values, dtype)
    rest = slice(num_whole * size, num_columns)
    if rest.start < rest.stop:
        _convert(target[rest], source[:, rest].T, dtype)


def _convert(target: np.ndarray, values: np.ndarray, dtype: str) -> None:
    """Write values of any strides into a target of any strides."""
    is_wider = target.dtype == np.float32
    if is_wider and dtype == "bfloat16":
        bits = values.astype(np.uint32, order="C")
        np.left_shift(bits, 16, out=target.view(np.uint32))
    elif not (is_wider and dtype == "float16" and _widen_half(target, values)):
        np.copyto(target, values, casting="same_kind")


def _widen_half(target: np.ndarray, values: np.ndarray) -> bool:
    """Write float16 as float32, faster than NumPy. Return False, with nothing written, if that is not possible.

    The bits, shifted to their place in float32, are the value divided by SCALE, also for subnormal numbers. But
    infinity and NaN have another exponent, and small values are lost if the processor treats subnormals as zero.
    """
    half = values.view(np.int16)
    if np.bitwise_and(half, NO_SIGN).max(initial=0) >= INFINITY or _loses_subnormals():
        return False
    bits = half.astype(np.int32, order="C")
    np.left_shift(bits, NUM_MORE_DIGITS, out=bits)
    np.bitwise_and(bits, KEEP_SIGN_AND_VALUE, out=bits)
    np.multiply(bits.view(np.float32), SCALE, out=target)
    return True


def _loses_subnormals() -> bool:
    smallest = np.array([1 << NUM_MORE_DIGITS], np.int32).view(np.float32)
    return not (smallest * SCALE).all()


def ranges(length: int, step: int) -> Iterator[slice]:
    """Return ranges of at most `step` each that together are the whole length."""
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
