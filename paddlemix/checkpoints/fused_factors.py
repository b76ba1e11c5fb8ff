"""Factors of parts of a matrix to those of the matrix, exactly: A below A, B along the diagonal."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..tensor_files.stored import CheckpointError, StoredTensor
from ..tensor_files.transforms import Derived
from .layouts.fused_weights import joined
from .layouts.rules import FusedRule
from .merged import Factors, as_float32


def joined_factors(rule: FusedRule, factors: Mapping[str, Factors]) -> Factors:
    """Return the factors of a matrix that holds several of ours; a part without any changes nothing.

    Parts that share A keep its rank, as they do where an adapter of the whole matrix was split. Others get the sum of
    the ranks, and B has zeros where a part does not see the A of another. All are in torch's orientation.
    Raises CheckpointError for DoRA of some parts only, as it would need the norms of the others.
    """
    parts = [factors.get(name) for name in rule.ours]
    given = [one for one in parts if one is not None]
    is_shared = len(given) == len(parts) and all(
        one.right is given[0].right and one.scaling == given[0].scaling for one in given
    )
    magnitude = None
    if any(one.magnitude is not None for one in given):
        if any(one is None or one.magnitude is None for one in parts):
            raise CheckpointError(f"DoRA of a part of {rule.theirs} only cannot be written as that of the whole")
        magnitude = _joined(rule, [one.magnitude for one in given])
    if is_shared:
        return Factors(_joined(rule, [one.left for one in given]), given[0].right, given[0].scaling, magnitude)
    scaling = given[0].scaling
    return Factors(_diagonal(rule, parts, scaling), _stacked(given), scaling, magnitude)


def _joined(rule: FusedRule, tensors: list[StoredTensor]) -> StoredTensor:
    """Put rows of parts in the order of the whole."""
    straight = FusedRule(rule.ours, rule.theirs, rule.rows, rule.num_groups)
    return joined(straight, dict(zip(rule.ours, tensors, strict=True)))


def _stacked(given: list[Factors]) -> StoredTensor:
    shape = (sum(one.rank for one in given), given[0].right.shape[1])
    sources = tuple(one.right for one in given)
    return Derived("float32", shape, lambda: np.concatenate([as_float32(one) for one in sources]), "joined", sources)


def _diagonal(rule: FusedRule, parts: list[Factors | None], scaling: float) -> StoredTensor:
    """Return B [rows of all, ranks of all]; another scaling than the common one goes into its part."""
    total = sum(one.rank for one in parts if one is not None)
    heights = [rule.num_groups * rows for rows in rule.rows]
    blocks, start = [], 0
    for height, one in zip(heights, parts, strict=True):
        blocks.append(_block(height, total, start, one, scaling))
        start += one.rank if one is not None else 0
    return _joined(rule, blocks)


def _block(height: int, total: int, start: int, one: Factors | None, scaling: float) -> StoredTensor:
    def read() -> np.ndarray:
        result = np.zeros((height, total), np.float32)
        if one is not None:
            result[:, start : start + one.rank] = as_float32(one.left) * np.float32(one.scaling / scaling)
        return result

    return Derived("float32", (height, total), read, "padded", () if one is None else (one.left,))
