"""Paddle's pickle files, read without running what they might contain."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np

from .files import CheckpointError, StoredTensor

try:
    from numpy._core.multiarray import _reconstruct, scalar
except ImportError:  # NumPy 1
    from numpy.core.multiarray import _reconstruct, scalar

# What a file of arrays needs, and nothing that can act.
ALLOWED = {
    ("builtins", "tuple"): tuple,
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): scalar,
    ("numpy._core.multiarray", "scalar"): scalar,
}
NAME_TABLE = "StructuredToParameterName@@"  # paddle.save adds it; it holds names, not values
SPLIT_TABLE = "UnpackBigParamInfor@@"  # how arrays above 4 GB were cut, for pickle protocol 2


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        found = ALLOWED.get((module, name))
        if found is None:
            raise CheckpointError(f"it refers to {module}.{name}, but only arrays and containers are read")
        return found


def open_pdparams(path: Path) -> dict[str, StoredTensor]:
    """Read a state dict that `paddle.save` wrote. uint16 arrays are bfloat16, as Paddle stores them.

    Raises CheckpointError for a file that is damaged, or holds anything but named arrays.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            values = _ArrayUnpickler(file).load()
    except CheckpointError as error:
        raise CheckpointError(f"{path} is refused: {error}") from None
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise CheckpointError(f"{path} is not a whole pdparams file: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, expected a dict of arrays")
    values = dict(values)
    values.pop(NAME_TABLE, None)
    _join_split_arrays(values)
    return {name: _stored(path, name, value) for name, value in values.items()}


def _join_split_arrays(values: dict) -> None:
    """Put together what paddle.save cut up: {name: {"OriginShape", "slices"}}."""
    for name, info in values.pop(SPLIT_TABLE, {}).items():
        parts = [values.pop(part) for part in info["slices"]]
        values[name] = np.concatenate(parts).reshape(info["OriginShape"])


def _stored(path: Path, name, value) -> StoredTensor:
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray):
        value = value[1]  # (parameter name, array)
    if not isinstance(name, str) or not isinstance(value, np.ndarray) or value.dtype.hasobject:
        raise CheckpointError(f"{path}: entry {name!r} is a {type(value).__name__}, expected an array")
    dtype = "bfloat16" if value.dtype == np.uint16 else str(value.dtype)
    return StoredTensor(dtype, value.shape, value)
