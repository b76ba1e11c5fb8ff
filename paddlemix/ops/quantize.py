"""Quantization of weights to codes of 8 or 4 bits and back, in NumPy, large matrices by loops.

`dequantize` does it on the device.

Matrices are [out, in], torch's orientation, so that blocks run along the inputs of an output and the codes equal those
of bitsandbytes for the same checkpoint.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from ..terminal.log import notice

KINDS = ("int8", "nf4")
BLOCK = 64  # weights that share a scale
SCALE_BLOCK = 256  # scales that share a scale
# NormalFloat: quantiles of the normal distribution (Dettmers et al. 2023, appendix E; bitsandbytes' create_normal_map).
NF4 = np.array(
    """-1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334
    -0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224
    0.44070982933044434 0.5626170039176941 0.7229568362236023 1.0""".split(),
    np.float32,
)
NF4_PAIRS = np.stack([np.repeat(NF4, 16), np.tile(NF4, 16)], axis=1)  # [256, 2]: the two values of a byte
NF4_MIDDLES = ((NF4[:-1].astype(np.float64) + NF4[1:]) / 2).astype(np.float32)
SMALLEST = np.float32(1e-36)  # smallest divisor, so that nothing overflows
LARGE = 1 << 22  # weights of a matrix from which compiling loops for models with such matrices pays
STEP = 4096  # blocks quantized at a time, so that they fit in the processor's cache


def _dynamic_map() -> np.ndarray:
    """Return the 256 values of 8-bit dynamic quantization, ascending (Dettmers 2015; bitsandbytes' create_dynamic_map).

    They are 0, 1, and for every power of ten from 1e-6 to 1 the midpoints of 1, 2, 4 .. 64 equal parts of 0.1 .. 1
    times it, with both signs.
    """
    positive = []
    for exponent in range(7):
        edges = np.linspace(0.1, 1.0, 2**exponent + 1)
        positive.append((edges[:-1] + edges[1:]) / 2 * 10.0 ** (exponent - 6))
    values = np.concatenate(positive)
    return np.sort(np.concatenate([values, -values, [0.0, 1.0]])).astype(np.float32)


DYNAMIC = _dynamic_map()
DYNAMIC_MIDDLES = ((DYNAMIC[:-1].astype(np.float64) + DYNAMIC[1:]) / 2).astype(np.float32)


@dataclass(frozen=True)
class Int8Codes:
    """codes int8 [out, in], scales float32 [out]: the weight is codes * scales. NumPy arrays or paddle tensors."""

    codes: Any
    scales: Any

    @property
    def shape(self) -> tuple[int, int]:
        return tuple(self.codes.shape)


@dataclass(frozen=True)
class Nf4Codes:
    """A matrix of `shape` (out, in) in blocks of 64, row by row, the last one padded with zeros.

    codes uint8 [blocks, 32]: two weights a byte, the first in its upper half. The blocks' scales are
    DYNAMIC[scale_codes] * group_scales + offset, of uint8 [groups, 256], float32 [groups] and float32 [1]; scales after
    the last block are meaningless. Groups of a part of a matrix may be smaller, see `cut`. NumPy arrays or paddle
    tensors.
    """

    shape: tuple[int, int]
    codes: Any
    scale_codes: Any
    group_scales: Any
    offset: Any

    @property
    def has_whole_groups(self) -> bool:
        return self.scale_codes.shape[1] == SCALE_BLOCK


Codes = Int8Codes | Nf4Codes


def choose_kind(load_in_8bit: bool, load_in_4bit: bool) -> str | None:
    """Return the kind of quantization that two switches select, or None. Raises ValueError if both are set."""
    if load_in_8bit and load_in_4bit:
        raise ValueError("weights can be stored in 8 bits or in 4, not both: set one of load_in_8bit and load_in_4bit")
    return "int8" if load_in_8bit else "nf4" if load_in_4bit else None


def check_kind(kind: str | None) -> None:
    """Raise ValueError for an unknown kind; None means no quantization."""
    if kind is not None and kind not in KINDS:
        raise ValueError(f"quantization is {kind!r}: expected {' or '.join(KINDS)}, or None for no quantization")


def quantize(matrix: np.ndarray, kind: str) -> Codes:
    """Return the codes of float32 [out, in]. Raises ValueError for values that are not finite."""
    return quantize_int8(matrix) if kind == "int8" else quantize_nf4(matrix)


def quantize_int8(matrix: np.ndarray) -> Int8Codes:
    """Return codes -127..127 with a scale for each output: its largest absolute weight / 127."""
    matrix = np.ascontiguousarray(matrix, np.float32)
    return _int8_codes(matrix.shape, lambda rows: matrix[rows])


def quantize_nf4(matrix: np.ndarray) -> Nf4Codes:
    """Return the codes of the nearest values of NF4 times the largest absolute weight of each block.

    The largest weights are then quantized themselves ("double quantization"). A block of zeros stays exactly zero.
    """
    flat = np.ascontiguousarray(matrix, np.float32).reshape(-1)
    flat = np.pad(flat, (0, -flat.size % BLOCK)) if flat.size % BLOCK else flat
    return _nf4_codes(tuple(matrix.shape), [flat.reshape(-1, BLOCK)])


def quantize_in_steps(shape: tuple[int, int], rows: Callable[[slice], np.ndarray], kind: str) -> Codes:
    """Return the codes of a matrix of shape (out, in) whose rows are read a few at a time, so that it needs no memory.

    rows: returns those of a range as contiguous float32 [n, in]. Raises ValueError for values that are not finite.
    """
    if kind == "int8":
        return _int8_codes(shape, rows)
    if shape[1] % BLOCK:
        return quantize_nf4(rows(slice(0, shape[0])))
    return _nf4_codes(shape, (rows(part).reshape(-1, BLOCK) for part in _row_steps(shape)))


def _int8_codes(shape: tuple[int, int], rows: Callable[[slice], np.ndarray]) -> Int8Codes:
    codes, largest = np.empty(shape, np.int8), np.empty(shape[0], np.float32)
    fill = _filler("int8", math.prod(shape))
    for part in _row_steps(shape):
        fill(rows(part), codes[part], largest[part])
        _check(largest[part])
    return Int8Codes(codes, largest / np.float32(127))


def _nf4_codes(shape: tuple[int, int], parts: Iterable[np.ndarray]) -> Nf4Codes:
    """Return the codes of a matrix from its blocks, float32 [n, 64] at a time."""
    num_blocks = math.ceil(math.prod(shape) / BLOCK)
    codes, largest = np.empty([num_blocks, BLOCK // 2], np.uint8), np.empty(num_blocks, np.float32)
    fill, start = _filler("nf4", math.prod(shape)), 0
    for blocks in parts:
        for step in _steps(len(blocks), STEP):
            place = slice(start + step.start, start + step.stop)
            fill(blocks[step], codes[place], largest[place])
            _check(largest[place])
        start += len(blocks)
    return Nf4Codes(shape, codes, *_quantize_scales(largest))


def _row_steps(shape: tuple[int, int]):
    return _steps(shape[0], max(STEP * BLOCK // max(shape[1], 1), 1))


def _filler(kind: str, size: int) -> Callable:
    """Return the function that writes the codes of float32 [n, width], and the largest absolute value of each row.

    size: number of weights of the whole matrix.
    """
    if size >= LARGE and (loops := _loops()):
        return partial(loops.fill_nf4, NF4_MIDDLES, SMALLEST) if kind == "nf4" else partial(loops.fill_int8, SMALLEST)
    return plain_fill_nf4 if kind == "nf4" else plain_fill_int8


def plain_fill_int8(rows: np.ndarray, codes: np.ndarray, largest: np.ndarray) -> None:
    """Write the codes int8 [R, n] of rows [R, n], and the rows' largest absolute values [R]."""
    largest[:] = _largest(rows)
    with np.errstate(invalid="ignore"):  # of values that are not finite, which the caller refuses
        codes[:] = np.rint(rows * (np.float32(127) / np.maximum(largest, SMALLEST))[:, None])


def plain_fill_nf4(blocks: np.ndarray, codes: np.ndarray, largest: np.ndarray) -> None:
    """Write the codes uint8 [B, n / 2] of blocks [B, n], and the blocks' largest absolute values [B]."""
    largest[:] = _largest(blocks)
    with np.errstate(invalid="ignore"):
        digits = _nearest_of_nf4(blocks * (np.float32(1) / np.maximum(largest, SMALLEST))[:, None])
    codes[:] = digits[:, ::2] << 4 | digits[:, 1::2]


@functools.cache
def _loops() -> ModuleType | None:
    """Return the compiled loops, None without numba or if a trial gives other codes than NumPy."""
    is_plain = os.environ.get("PADDLEMIX_PLAIN_OPS", "0") not in ("", "0")
    if is_plain or importlib.util.find_spec("numba") is None:
        return None
    from . import quantize_loops as loops

    rows = np.random.default_rng(3).standard_normal([70, BLOCK]).astype(np.float32)
    rows[3], rows[4, :2], rows[5] = 0, (1, -1), rows[5] * SMALLEST
    found, expected = [], []
    for width, dtype in ((BLOCK, np.int8), (BLOCK // 2, np.uint8)):
        found.append((np.empty([len(rows), width], dtype), np.empty(len(rows), np.float32)))
        expected.append((np.empty([len(rows), width], dtype), np.empty(len(rows), np.float32)))
    loops.fill_int8(SMALLEST, rows, *found[0])
    loops.fill_nf4(NF4_MIDDLES, SMALLEST, rows, *found[1])
    plain_fill_int8(rows, *expected[0])
    plain_fill_nf4(rows, *expected[1])
    pairs = zip(itertools.chain(*found), itertools.chain(*expected), strict=True)
    if all(np.array_equal(*pair) for pair in pairs):
        return loops
    notice("numba's loops for quantization give other codes than NumPy here: not used, so that quantizing takes longer")
    return None


def _quantize_scales(scales: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scale_codes, group_scales and offset of Nf4Codes for float32 [blocks]."""
    offset = scales.mean(dtype=np.float64, keepdims=True).astype(np.float32)
    rest = np.pad(scales - offset, (0, -scales.size % SCALE_BLOCK)).reshape(-1, SCALE_BLOCK)
    largest = _largest(rest)
    scaled = rest * (np.float32(1) / np.maximum(largest, SMALLEST))[:, None]
    return np.searchsorted(DYNAMIC_MIDDLES, scaled).astype(np.uint8), largest, offset


def _nearest_of_nf4(scaled: np.ndarray) -> np.ndarray:
    """Return the index in NF4 of the nearest value. Fifteen passes are faster than a binary search for each weight."""
    digits = np.zeros(scaled.shape, np.uint8)
    for middle in NF4_MIDDLES:
        digits += scaled > middle
    return digits


def _largest(rows: np.ndarray) -> np.ndarray:
    """Return the largest absolute value of each row."""
    return np.maximum(rows.max(axis=1), -rows.min(axis=1))


def _check(largest: np.ndarray) -> None:
    """Raise ValueError if some of the largest absolute weights are not finite."""
    if not np.isfinite(largest).all():
        raise ValueError("the weights contain values that are not finite and cannot be quantized")


def cut(codes: Codes, rows: slice, columns: slice) -> Codes:
    """Return the codes of a part of a matrix, NumPy arrays: it has exactly the values that the whole has there.

    Raises ValueError for NF4 codes whose blocks would be cut.
    """
    if isinstance(codes, Int8Codes):
        return Int8Codes(np.ascontiguousarray(codes.codes[rows, columns]), codes.scales[rows].copy())
    (num_rows, num_columns), width = codes.shape, columns.stop - columns.start
    if num_columns % BLOCK or columns.start % BLOCK or width % BLOCK:
        raise ValueError(
            f"its {num_columns} inputs cannot be cut at {columns.start} and {columns.stop} in nf4, whose blocks have "
            f"{BLOCK} weights: take fewer cards, or int8"
        )
    each, first, last = num_columns // BLOCK, columns.start // BLOCK, columns.stop // BLOCK
    blocks = np.arange(num_rows * each).reshape(num_rows, each)[rows, first:last].reshape(-1)
    # The blocks of a smaller group were neighbors in one group before.
    starts = (rows.start * each,) if last - first == each else (each, first, last)
    size = math.gcd(SCALE_BLOCK, *starts)
    scale_codes = codes.scale_codes.reshape(-1)[blocks]
    scale_codes = np.pad(scale_codes, (0, -len(blocks) % size)).reshape(-1, size)
    group_scales = codes.group_scales[blocks[::size] // SCALE_BLOCK]
    shape = (rows.stop - rows.start, width)
    return Nf4Codes(shape, codes.codes[blocks], scale_codes, group_scales, codes.offset)


def _steps(num_rows: int, step: int):
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


def dequantize(codes: Codes) -> np.ndarray:
    """Return float32 [out, in], bit-equal to the weights that the model uses in float32."""
    if isinstance(codes, Int8Codes):
        return codes.codes.astype(np.float32) * codes.scales[:, None]
    num_blocks = len(codes.codes)
    scales = DYNAMIC[codes.scale_codes] * codes.group_scales[:, None] + codes.offset
    values = NF4_PAIRS[codes.codes].reshape(num_blocks, BLOCK) * scales.reshape(-1)[:num_blocks, None]
    return values.reshape(-1)[: math.prod(codes.shape)].reshape(codes.shape)
