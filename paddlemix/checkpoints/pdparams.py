"""Paddle's pickle files, read without running what they might contain.

NumPy's own classes are not handed to the file either: their `__setstate__` believes what it is told, and a file made
for it can crash the process. Stand-ins take what a plain array needs and check it.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np

from .files import CheckpointError, StoredTensor, held

PLAIN_DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
NAME_TABLE = "StructuredToParameterName@@"  # paddle.save adds it; it holds names, not values
SPLIT_TABLE = "UnpackBigParamInfor@@"  # how arrays above 4 GB were cut, for pickle protocols below 4


class _Dtype:
    """Stands in for numpy.dtype."""

    code = ""

    def __init__(self, code, is_aligned=False, is_copied=False):
        if code not in PLAIN_DTYPES:
            raise CheckpointError(f"it holds an array of dtype {code!r}, but only plain numbers are read")
        self.code = code

    def __setstate__(self, state):
        order = state[1]  # (version, byte order, then what plain numbers do not have)
        self.code = order.replace("|", "") + self.code[-2:]


class _Array:
    """Stands in for numpy.ndarray; values is None until the state came."""

    values: np.ndarray | None = None

    def __setstate__(self, state):
        _, shape, dtype, is_fortran, data = state
        if not isinstance(dtype, _Dtype) or not dtype.code or not isinstance(data, bytes):
            raise CheckpointError("it holds an array of something else than plain numbers")
        values = np.frombuffer(data, dtype=dtype.code)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        self.values = values.reshape(shape, order="F" if is_fortran else "C")


def _reconstruct(kind, shape, code) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """Stand in for _codecs.encode, by which pickle protocol 2 writes bytes."""
    if encoding != "latin1":
        raise CheckpointError(f"it encodes text as {encoding!r}")
    return text.encode("latin1")


# What a file of arrays needs, and nothing that can act.
ALLOWED = {
    ("builtins", "tuple"): tuple,
    ("__builtin__", "tuple"): tuple,
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _encode,
}


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
        if isinstance(values, dict):
            values = dict(values)
            values.pop(NAME_TABLE, None)
            _join_split_arrays(values)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is refused: {error}") from None
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything, as Python's documentation says
        raise CheckpointError(f"{path} is not a whole pdparams file: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, expected a dict of arrays")
    return {name: _stored(path, name, value) for name, value in values.items()}


def _join_split_arrays(values: dict) -> None:
    """Put together what paddle.save cut up: {name: {"OriginShape", "slices"}}."""
    for name, info in values.pop(SPLIT_TABLE, {}).items():
        whole = _Array()
        whole.values = np.concatenate([values.pop(part).values for part in info["slices"]]).reshape(info["OriginShape"])
        values[name] = whole


def _stored(path: Path, name, value) -> StoredTensor:
    if isinstance(value, tuple) and len(value) == 2:
        value = value[1]  # (parameter name, array)
    if not isinstance(name, str) or not isinstance(value, _Array) or value.values is None:
        raise CheckpointError(f"{path}: entry {name!r} is a {type(value).__name__}, expected an array")
    values = value.values
    dtype = "bfloat16" if values.dtype == np.uint16 else str(values.dtype)
    return held(values, dtype)
