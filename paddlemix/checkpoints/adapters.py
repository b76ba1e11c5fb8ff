"""What a LoRA run trained, whoever wrote it, laid over the tensors of its base without loading either.

Merging is W + left right * scaling (Hu et al. 2021), in float32, and is computed when a merged tensor is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..models.language.families import FAMILIES
from .files import CheckpointError, StoredTensor, preview, storage_dtype
from .transforms import Derived, cast_values, row_blocks, transposed, widened

# Ends of names, ours and those of every family.
VOCABULARY = tuple(
    {f"{family.weights.of(name)}.weight" for family in FAMILIES.values() for name in ("embed_tokens", "lm_head")}
)
# A tensor and whether its axes have to be swapped to be ours.
Oriented = tuple[StoredTensor, bool]


@dataclass(frozen=True)
class Factors:
    """left [rows, r] and right [r, columns] of one matrix's change."""

    left: StoredTensor
    right: StoredTensor
    scaling: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0], self.right.shape[1]

    @property
    def transposed(self) -> Factors:
        return Factors(transposed(self.right), transposed(self.left), self.scaling)


@dataclass(frozen=True)
class Adapter:
    """source: the file or folder, for messages. factors: name of the weight they change -> its two factors.

    whole: tensors that take the place of the base's, or that the base lacks.
    """

    source: Path
    factors: Mapping[str, Factors] = field(default_factory=dict)
    whole: Mapping[str, StoredTensor] = field(default_factory=dict)


def lay_over(
    tensors: Mapping[str, Oriented],
    adapter: Adapter,
    translate: Callable[[str], tuple[str, bool] | None],
    merge_dtype: str | None = None,
) -> dict[str, Oriented]:
    """Return the base's tensors with an adapter's in or on them.

    translate: from the adapter's name of a tensor to (name in `tensors`, whether its axes are swapped there), None if
    nobody knows it. merge_dtype: of the merged matrices; None keeps the base's.
    Raises CheckpointError for tensors that nobody knows or that do not fit the base.
    """
    names = {name: translate(name) for name in (*adapter.whole, *adapter.factors)}
    unknown = sorted(name for name, target in names.items() if target is None)
    if unknown:
        raise CheckpointError(f"{adapter.source} holds tensors that nobody knows: {preview(unknown)}")
    result, wrong = dict(tensors), []
    for name, tensor in adapter.whole.items():
        target, is_transposed = names[name]
        if not _may_replace(result.get(target), tensor, is_transposed, target):
            wrong.append(f"{name} {list(tensor.shape)}")
        result[target] = (tensor, is_transposed)
    for name, factors in adapter.factors.items():  # after that: a layer may have trained whole and with factors
        target, is_transposed = names[name]
        base, is_base_transposed = result.get(target, (None, is_transposed))
        factors = factors if is_base_transposed == is_transposed else factors.transposed
        if base is None or tuple(base.shape) != factors.shape:
            wrong.append(f"{name} {list(factors.shape)}")
        else:
            result[target] = (merged(base, factors, merge_dtype or base.dtype), is_base_transposed)
    if wrong:
        raise CheckpointError(
            f"{adapter.source} was trained on another model, these do not fit the base: {preview(wrong)}"
        )
    return result


@dataclass(frozen=True)
class Merged(Derived):
    """A matrix with its change, kept apart so that both can be split, see `fused`."""

    factors: Factors | None = None


def merged(base: StoredTensor, factors: Factors, dtype: str) -> Merged:
    """Return base + left right * scaling, rounded once; its values cost the memory of themselves and of a block."""

    def read() -> np.ndarray:
        values = base.values
        left, right = (as_float32(tensor) for tensor in (factors.left, factors.right))
        result = np.empty(values.shape, storage_dtype(dtype))
        for rows in row_blocks(values):
            change = left[rows] @ right * np.float32(factors.scaling)
            result[rows] = cast_values(widened(values[rows], base.dtype).astype(np.float32) + change, "float32", dtype)
        return result

    sources = base, factors.left, factors.right
    return Merged(dtype, tuple(base.shape), read, "merged", sources, factors=factors)


def _may_replace(base: Oriented | None, tensor: StoredTensor, is_transposed: bool, name: str) -> bool:
    """Tell if a whole tensor has the shape of the base's. A vocabulary may have grown; what is new may have any."""
    if base is None or name.endswith(VOCABULARY):
        return True
    shape = base[0].shape if base[1] == is_transposed else base[0].shape[::-1]
    return tuple(shape) == tuple(tensor.shape)


def as_float32(tensor: StoredTensor) -> np.ndarray:
    return widened(tensor.values, tensor.dtype).astype(np.float32)
