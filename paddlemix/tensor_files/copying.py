"""Values of arrays into memory that is there already, turned and widened on the way. A weight is copied once.

A matrix stored as [out, in] is turned in tiles that stay in the processor's cache. NumPy moves single values slowly
when they lie apart, so what is turned first are pieces of 16 bytes, several values of a row at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

TILE_ROWS, TILE_COLUMNS = 512, 128
RUN = 1 << 15  # values that are widened at a time
PIECE = np.dtype(np.complex128)  # what NumPy moves fastest: 16 bytes, of which it looks at none
# float16 has an exponent of 5 bits with a bias of 15, float32 one of 8 with a bias of 127 (IEEE 754).
NUM_MORE_DIGITS, KEEP_SIGN_AND_VALUE, SCALE = 13, np.int32(-0x70000001), np.float32(2.0 ** (127 - 15))
FIRST_BEYOND = 2.0**16 / SCALE  # what infinity and NaN of float16 become at the least, before they are scaled


def copy_into(target: np.ndarray, values: np.ndarray, dtype: str) -> None:
    """Write values, bits of bfloat16 as uint16, into a contiguous array of their shape.

    target: of the values' own storage dtype, or float32. The values may be a transposed view.
    """
    assert target.flags.c_contiguous and target.shape == values.shape, (target.shape, values.shape)
    if values.ndim == 2 and not values.flags.c_contiguous and values.strides[0] == values.itemsize:
        _turn(target, values.T, dtype)
        return
    if values.flags.c_contiguous:
        target, values = target.reshape(-1), values.reshape(-1)
    row = max(values[:1].size, 1) if values.ndim else 1
    for rows in _ranges(len(target), max(RUN // row, 1)):
        _convert(target[rows], values[rows], dtype)


def widened(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return floats that NumPy can compute with: bits of bfloat16 become float32, the others stay."""
    if dtype != "bfloat16":
        return values
    return (values.astype(np.uint32) << 16).view(np.float32)


def _turn(target: np.ndarray, source: np.ndarray, dtype: str) -> None:
    """Write the transposed source, whose rows are contiguous."""
    num_rows, num_columns = source.shape
    size = PIECE.itemsize // source.itemsize  # values of a piece
    num_whole = num_columns // size
    pieces = source[:, : num_whole * size].view(PIECE)
    places = target[: num_whole * size].reshape(num_whole, size, num_rows)
    for columns in _ranges(num_whole, max(TILE_COLUMNS // size, 1)):
        for rows in _ranges(num_rows, TILE_ROWS):
            turned = np.ascontiguousarray(pieces[rows, columns].T)
            values = turned.view(source.dtype).reshape(*turned.shape, size).swapaxes(1, 2)
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
    """Write float16 as float32; tell if that was possible. NumPy's own way takes three times as long.

    The bits, moved to where float32 has them, are the value divided by SCALE, subnormal numbers included; but infinity
    and NaN have another exponent, and nothing is left of small values where the processor takes subnormals for zero.
    """
    bits = values.view(np.int16).astype(np.int32, order="C")
    np.left_shift(bits, NUM_MORE_DIGITS, out=bits)
    np.bitwise_and(bits, KEEP_SIGN_AND_VALUE, out=bits)
    small = bits.view(np.float32)
    if (small.size and max(small.max(), -small.min()) >= FIRST_BEYOND) or _loses_subnormals():
        return False
    np.multiply(small, SCALE, out=target)
    return True


def _loses_subnormals() -> bool:
    smallest = np.array([1 << NUM_MORE_DIGITS], np.int32).view(np.float32)
    return not (smallest * SCALE).all()


def _ranges(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
