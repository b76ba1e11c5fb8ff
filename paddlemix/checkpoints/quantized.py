"""Stored tensors to codes, and rounded to what their codes stand for. Needs no paddle.

An adapter that was trained over quantised weights changes those, not the ones that its base's folder holds. So a base
is rounded before such an adapter is merged into it, or is held as codes again with the adapter beside them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ..ops.quantize import Codes, dequantize, quantize
from ..tensor_files.stored import CheckpointError, StoredTensor
from ..tensor_files.transforms import Derived, cast_values, contiguous, is_turned, transposed
from .adapters import Oriented
from .merged import Factors, Merged, as_float32

QUANTIZED_NAME = re.compile(r"language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight")


@dataclass(frozen=True)
class Rounded(Derived):
    """A linear layer's weight with the values that its codes stand for."""

    kind: str = ""


def rounded(tensors: dict[str, Oriented], kind: str, dtype: str | None) -> dict[str, Oriented]:
    """Return tensors, by our names, with those that a model would hold as codes rounded. dtype None keeps theirs."""
    return {
        name: (_rounded(name, *pair, kind, dtype or pair[0].dtype), pair[1]) if QUANTIZED_NAME.fullmatch(name) else pair
        for name, pair in tensors.items()
    }


def _rounded(name: str, tensor: StoredTensor, is_transposed: bool, kind: str, dtype: str) -> Rounded:
    def read() -> np.ndarray:
        values = dequantize(_codes(name, tensor, is_transposed, kind))
        return cast_values(values if is_transposed else values.T, "float32", dtype)

    return Rounded(dtype, tuple(tensor.shape), read, f"rounded to {kind}", (tensor,), kind=kind)


def to_codes(
    name: str, tensor: StoredTensor, is_transposed: bool, kind: str
) -> tuple[Codes, tuple[np.ndarray, np.ndarray] | None]:
    """Return the codes of a weight and, where an adapter was to be merged into it, left [in, r] and right [r, out].

    is_transposed: it is stored as [out, in]. Raises CheckpointError for values that are no finite numbers.
    """
    base, factors = _apart(tensor, kind)
    if factors is None:
        return _codes(name, base, is_transposed, kind), None
    factors = factors.transposed if is_transposed else factors
    left, right = (contiguous(as_float32(side), "float32") for side in (factors.left, factors.right))
    return _codes(name, base, is_transposed, kind), (left * np.float32(factors.scaling), right)


def _apart(tensor: StoredTensor, kind: str) -> tuple[StoredTensor, Factors | None]:
    """Return what an adapter's product was added to and its factors; a tensor rounded to this kind as it was before."""
    if is_turned(tensor):
        base, factors = _apart(tensor.sources[0], kind)
        return transposed(base), factors.transposed if factors else None
    is_plain = isinstance(tensor, Merged) and tensor.factors.magnitude is None  # DoRA's change is no product alone
    tensor, factors = (tensor.sources[0], tensor.factors) if is_plain else (tensor, None)
    if isinstance(tensor, Rounded) and tensor.kind == kind:
        tensor = tensor.sources[0]
    return tensor, factors


def _codes(name: str, tensor: StoredTensor, is_transposed: bool, kind: str) -> Codes:
    values = tensor.values if is_transposed else tensor.values.T
    try:
        return quantize(contiguous(values, tensor.dtype, widen=True).astype(np.float32, copy=False), kind)
    except ValueError as error:
        raise CheckpointError(f"{name}: {error}") from None
