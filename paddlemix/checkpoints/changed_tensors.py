"""Tensors with the changes of an adapter: a product of factors, replaced rows, an added bias. All are lazy.

LoRA is W + left right * scaling (Hu et al. 2021, arXiv:2106.09685), and DoRA m (W + left right * scaling) / its norm
(Liu et al. 2024, arXiv:2402.09353, equation 5). Both are computed in float32 and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..tensor_files.stored import StoredTensor, storage_dtype
from ..tensor_files.transforms import Derived, cast_values, row_blocks, transposed, widened


@dataclass(frozen=True)
class Factors:
    """left [rows, r] and right [r, columns] of one matrix's change.

    magnitude: of DoRA, the norm of each row of the result (axis 0) or of each column (axis 1). None for LoRA.
    """

    left: StoredTensor
    right: StoredTensor
    scaling: float
    magnitude: StoredTensor | None = None
    axis: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0], self.right.shape[1]

    @property
    def rank(self) -> int:
        return self.right.shape[0]

    @property
    def transposed(self) -> Factors:
        return replace(self, left=transposed(self.right), right=transposed(self.left), axis=1 - self.axis)


@dataclass(frozen=True)
class Rows:
    """Values [n, columns] that replace the rows with these n numbers."""

    numbers: tuple[int, ...]
    values: StoredTensor

    @property
    def last(self) -> int:
        return max(self.numbers, default=-1)


@dataclass(frozen=True)
class Merged(Derived):
    """A matrix and its change, kept apart so that both can be split, see `fused_weights`."""

    factors: Factors | None = None


def merged(base: StoredTensor, factors: Factors, dtype: str) -> Merged:
    """Return base + left right * scaling, for DoRA with the norms of magnitude. Further axes of base count as columns.

    Reading needs the memory of the values and of a block.
    """

    def read() -> np.ndarray:
        values = base.values
        matrix = values.reshape(len(values), -1) if values.ndim > 2 else values
        left, right = (as_float32(tensor) for tensor in (factors.left, factors.right))

        def changed(rows: slice) -> np.ndarray:
            change = left[rows] @ right * np.float32(factors.scaling)
            return widened(matrix[rows], base.dtype).astype(np.float32) + change

        scale = _scaler(factors, matrix, changed)
        result = np.empty(matrix.shape, storage_dtype(dtype))
        for rows in row_blocks(matrix):
            result[rows] = cast_values(scale(rows, changed(rows)), "float32", dtype)
        return result.reshape(values.shape)

    sources = (base, factors.left, factors.right, *([] if factors.magnitude is None else [factors.magnitude]))
    return Merged(dtype, tuple(base.shape), read, "merged", sources, factors=factors)


def _scaler(factors: Factors, matrix: np.ndarray, changed: Callable[[slice], np.ndarray]) -> Callable:
    """Return a function that scales rows of the changed matrix to the norms of DoRA, and does nothing for LoRA."""
    if factors.magnitude is None:
        return lambda rows, block: block
    magnitude = as_float32(factors.magnitude).reshape(-1)
    if factors.axis == 0:
        return lambda rows, block: block * _ratio(magnitude[rows], _squares(block, 1))[:, None]
    squares = sum(_squares(changed(rows), 0) for rows in row_blocks(matrix))
    ratio = _ratio(magnitude, squares)
    return lambda rows, block: block * ratio


def _squares(block: np.ndarray, axis: int) -> np.ndarray:
    return np.square(block, dtype=np.float64).sum(axis=axis)


def _ratio(magnitude: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return magnitude / norm, and zero where the norm is zero."""
    norms = np.sqrt(squares)
    return np.divide(magnitude, norms, out=np.zeros(len(norms)), where=norms > 0).astype(np.float32)


def with_rows(base: StoredTensor, rows: Rows, dtype: str) -> Derived:
    """Return a matrix with some of its rows replaced."""

    def read() -> np.ndarray:
        values = base.values
        result = np.empty(values.shape, storage_dtype(dtype))
        for block in row_blocks(values):
            result[block] = cast_values(values[block], base.dtype, dtype)
        result[list(rows.numbers)] = cast_values(rows.values.values, rows.values.dtype, dtype)
        return result

    return Derived(dtype, tuple(base.shape), read, "rows replaced", (base, rows.values))


def plus(base: StoredTensor, vector: StoredTensor, scaling: float, dtype: str) -> Derived:
    """Return base + vector * scaling."""

    def read() -> np.ndarray:
        return cast_values(as_float32(base) + as_float32(vector) * np.float32(scaling), "float32", dtype)

    return Derived(dtype, tuple(base.shape), read, "merged", (base, vector))


def as_matrix(tensor: StoredTensor) -> StoredTensor:
    """Return a tensor with more than two axes, a convolution's, as a matrix [first axis, all others]."""
    if len(tensor.shape) <= 2:
        return tensor
    shape = (tensor.shape[0], num_columns(tensor))
    return Derived(tensor.dtype, shape, lambda: tensor.values.reshape(shape), "reshaped", (tensor,))


def num_columns(tensor: StoredTensor) -> int:
    return math.prod(tensor.shape[1:])


def as_float32(tensor: StoredTensor) -> np.ndarray:
    return widened(tensor.values, tensor.dtype).astype(np.float32)
