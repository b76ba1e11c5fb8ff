"""Quantization of stored tensors, to codes or to the rounded values of the codes. Needs no paddle.

An adapter that was trained over quantized weights changes these, not the weights in its base's folder. So the base is
rounded before the adapter is merged into it, or quantized again with the adapter kept apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ..ops.quantize import Codes, cut, dequantize, quantize_in_steps
from ..tensor_files.stored import CheckpointError, StoredTensor
from ..tensor_files.transforms import Derived, cast_values, contiguous, is_transposed, transposed
from .adapters import Oriented
from .changed_tensors import Factors, Merged, as_float32
from .parts import Part

QUANTIZED_NAME = re.compile(r"language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight")


@dataclass(frozen=True)
class Rounded(Derived):
    """A linear layer's weight, rounded to the values of its codes."""

    kind: str = ""


def rounded(tensors: dict[str, Oriented], kind: str, dtype: str | None) -> dict[str, Oriented]:
    """Return tensors by our names, rounded where a quantized model has codes. dtype: None keeps that of each tensor."""
    return {
        name: (_rounded(name, *pair, kind, dtype or pair[0].dtype), pair[1]) if QUANTIZED_NAME.fullmatch(name) else pair
        for name, pair in tensors.items()
    }


def _rounded(name: str, tensor: StoredTensor, is_swapped: bool, kind: str, dtype: str) -> Rounded:
    def read() -> np.ndarray:
        values = dequantize(_codes(name, tensor, is_swapped, kind))
        return cast_values(values if is_swapped else values.T, "float32", dtype)

    return Rounded(dtype, tuple(tensor.shape), read, f"rounded to {kind}", (tensor,), kind=kind)


def to_codes(name: str, tensor: StoredTensor, kind: str) -> tuple[Codes, tuple[np.ndarray, np.ndarray] | None]:
    """Return the codes of a weight [in, out], and the factors left [in, r] and right [r, out] of an adapter on it.

    A part is cut from the codes of the whole, which makes them those of a model on one card. Raises CheckpointError for
    values that are not finite, and for codes that cannot be cut there.
    """
    if isinstance(tensor, Part):
        codes, factors = to_codes(name, tensor.sources[0], kind)
        try:
            codes = cut(codes, tensor.columns, tensor.rows)
        except ValueError as error:
            raise CheckpointError(f"{name}: {error}") from None
        return codes, None if factors is None else (factors[0][tensor.rows], factors[1][:, tensor.columns])
    is_swapped = is_transposed(tensor)
    base, factors = _apart(tensor.sources[0] if is_swapped else tensor, kind)
    if factors is None:
        return _codes(name, base, is_swapped, kind), None
    factors = factors.transposed if is_swapped else factors
    left, right = (contiguous(as_float32(side), "float32") for side in (factors.left, factors.right))
    return _codes(name, base, is_swapped, kind), (left * np.float32(factors.scaling), right)


def _apart(tensor: StoredTensor, kind: str) -> tuple[StoredTensor, Factors | None]:
    """Return the tensor before an adapter was merged, and the adapter's factors. Undo a rounding to this kind too."""
    if is_transposed(tensor):
        base, factors = _apart(tensor.sources[0], kind)
        return transposed(base), factors.transposed if factors else None
    # The change of DoRA is not only a product of factors, so that it cannot be separated.
    is_plain = isinstance(tensor, Merged) and tensor.factors.magnitude is None
    tensor, factors = (tensor.sources[0], tensor.factors) if is_plain else (tensor, None)
    if isinstance(tensor, Rounded) and tensor.kind == kind:
        tensor = tensor.sources[0]
    return tensor, factors


def _codes(name: str, tensor: StoredTensor, is_swapped: bool, kind: str) -> Codes:
    values = tensor.values if is_swapped else tensor.values.T
    try:
        return quantize_in_steps(
            values.shape,
            lambda rows: contiguous(values[rows], tensor.dtype, widen=True).astype(np.float32, copy=False),
            kind,
        )
    except ValueError as error:
        raise CheckpointError(f"{name}: {error}") from None
