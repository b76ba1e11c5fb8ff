"""Paddle's pickle files: state dicts, whose values are read on demand.

The pickle does not get NumPy's own classes: their `__setstate__` trusts its arguments, so that a malicious file can
crash the process. Classes of this module replace them. They take the facts of a plain array and check them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .pickle_reader import (
    MAX_STEPS,
    Buildable,
    PickleReader,
    Span,
    as_tuple,
    integer_opcode,
    new_dict,
    plain_opcode,
    text_opcode,
)
from .stored import (
    CheckpointError,
    StoredTensor,
    is_shape,
    map_array,
    refuse_empty,
    refuse_pointer,
    refusing,
    storage_dtype,
)

PLAIN_DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
BYTE_ORDERS = ("|", "=", "<", ">")
NAME_TABLE = "StructuredToParameterName@@"  # added by paddle.save; it has names, not values
SPLIT_TABLE = "UnpackBigParamInfor@@"  # how arrays above 4 GB were cut, for pickle protocols below 4
CHUNK_BYTES = 1 << 20
ARRAY_CLASS = object()  # the value of the name numpy.ndarray


class _Dtype(Buildable):
    """Replaces numpy.dtype."""

    def __init__(self, code: Any, is_aligned: Any = False, is_copied: Any = False):
        if not isinstance(code, str) or code not in PLAIN_DTYPES:
            what = repr(code) if isinstance(code, str) else f"a {type(code).__name__}"
            raise CheckpointError(f"it holds an array of dtype {what}, but only plain numbers are read")
        self.stored = np.dtype(code)

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in BYTE_ORDERS:
            raise CheckpointError("it describes the numbers of an array in an unknown way")
        self.stored = self.stored.newbyteorder(state[1])  # plain numbers do not need the rest of the state


@dataclass(frozen=True)
class _Encoded:
    """An array's bytes in pickle protocol 2: a string in which each character is one byte."""

    text: Span | str


class _Array(Buildable):
    """Replaces numpy.ndarray. shape: None before `set_state`. data: bytes in the file."""

    shape: tuple[int, ...] | None = None
    stored: np.dtype
    is_fortran: bool
    data: Span | _Encoded

    def set_state(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, (Span, _Encoded)) or not is_shape(shape):
            raise CheckpointError("it holds an array of other things than plain numbers")
        self.shape, self.stored, self.is_fortran, self.data = tuple(shape), dtype.stored, is_fortran is True, data


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    """Replace the function by which NumPy makes an empty array."""
    return _Array()


def _encode(text: Any, encoding: Any) -> _Encoded:
    """Replace _codecs.encode, by which pickle protocol 2 writes bytes."""
    if encoding != "latin1" or not isinstance(text, (str, Span)):
        raise CheckpointError("it encodes other things than an array's bytes")
    return _Encoded(text)


def _no_bytes() -> _Encoded:
    """Replace bytes, by which pickle protocol 2 writes an array without values."""
    return _Encoded("")


# The names in a file of arrays. None of them can run code.
KNOWN = {
    ("builtins", "tuple"): as_tuple,
    ("__builtin__", "tuple"): as_tuple,
    ("collections", "OrderedDict"): new_dict,
    ("numpy", "ndarray"): ARRAY_CLASS,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
}


def open_pdparams(path: Path) -> dict[str, StoredTensor]:
    """Map the arrays of a state dict that `paddle.save` wrote. uint16 arrays are bfloat16, as Paddle stores them.

    Raises CheckpointError for a damaged file, and for anything but named arrays. No code in the file is run.
    """
    path = Path(path)
    with refusing(path):
        return named_arrays(path, read_saved(path))


def read_saved(path: Path, known: Mapping[tuple[str, str], Any] = KNOWN, max_steps: int = MAX_STEPS) -> Any:
    """Return the object in a file of paddle.save, with arrays for `named_arrays`. For errors see PickleReader."""
    refuse_empty(path)
    with open(path, "rb") as file:
        refuse_pointer(file.read(64))
        file.seek(0)
        return PickleReader(file, known, max_steps=max_steps).load()


def named_arrays(path: Path, values: Any) -> dict[str, StoredTensor]:
    """Return the arrays of a dict that `read_saved` returned. Raises CheckpointError for anything else in it."""
    if not isinstance(values, dict):
        raise CheckpointError(f"it holds a {type(values).__name__}, expected a dict of arrays")
    tables = (NAME_TABLE, SPLIT_TABLE)
    tensors = {name: stored_array(path, name, value) for name, value in values.items() if name not in tables}
    _join_split_arrays(tensors, values.get(SPLIT_TABLE, {}))
    return tensors


def stored_array(path: Path, name: Any, value: Any) -> StoredTensor:
    """Return an array that `read_saved` found under a name. Raises CheckpointError for anything else."""
    if isinstance(value, tuple) and len(value) == 2:
        value = value[1]  # (parameter name, array)
    if not isinstance(name, str) or not isinstance(value, _Array) or value.shape is None:
        raise CheckpointError(f"entry {name!r} is a {type(value).__name__}, expected an array under a name")
    expected, found = math.prod(value.shape) * value.stored.itemsize, _num_bytes(path, value.data)
    if found != expected:
        raise CheckpointError(f"entry {name!r} has {found} bytes, its shape {value.shape} needs {expected}")
    native = value.stored.newbyteorder("=")
    dtype = "bfloat16" if native == np.uint16 else str(native)
    return StoredTensor(dtype, value.shape, partial(_read, path, value, native))


def _num_bytes(path: Path, data: Span | _Encoded) -> int:
    """Return the number of an array's bytes: in UTF-8 text it is the number of characters."""
    if isinstance(data, Span):
        return data.length
    if isinstance(data.text, str):
        return len(data.text)
    count, left = 0, data.text.length
    with open(path, "rb") as file:
        file.seek(data.text.offset)
        while left:
            chunk = np.frombuffer(file.read(min(left, CHUNK_BYTES)), np.uint8)
            count += int(np.count_nonzero((chunk & 0xC0) != 0x80))
            left -= len(chunk)
    return count


def _read(path: Path, array: _Array, native: np.dtype) -> np.ndarray:
    """Map an array, or decode it from text, which needs the memory of several copies."""
    count = math.prod(array.shape)
    if isinstance(array.data, Span):
        flat = map_array(path, array.stored, array.data.offset, (count,))
    else:
        flat = np.frombuffer(_decode(path, array.data.text), array.stored)
    return flat.astype(native, copy=False).reshape(array.shape, order="F" if array.is_fortran else "C")


def _decode(path: Path, text: Span | str) -> bytes:
    try:
        if isinstance(text, Span):
            with open(path, "rb") as file:
                file.seek(text.offset)
                text = file.read(text.length).decode("utf-8")
        return text.encode("latin1")
    except UnicodeError:
        raise CheckpointError(f"{path} is damaged: an array's bytes are not as pickle protocol 2 writes them") from None


def _join_split_arrays(tensors: dict[str, StoredTensor], cuts: Any) -> None:
    """Join arrays that paddle.save has cut: {name: {"OriginShape", "slices"}}."""
    if not isinstance(cuts, dict) or not all(isinstance(info, dict) for info in cuts.values()):
        raise CheckpointError(f"its {SPLIT_TABLE} is not a table of arrays that were cut")
    for name, info in cuts.items():
        shape, slices = info.get("OriginShape"), info.get("slices")
        if not is_shape(shape) or not isinstance(slices, list) or not slices:
            raise CheckpointError(f"its {SPLIT_TABLE} does not list the parts of entry {name!r}")
        if not all(isinstance(part, str) and part in tensors for part in slices) or len(set(slices)) < len(slices):
            raise CheckpointError(f"parts of entry {name!r} are missing")
        parts = [tensors.pop(part) for part in slices]
        if len({part.dtype for part in parts}) > 1 or sum(map(_num_values, parts)) != math.prod(shape):
            raise CheckpointError(f"the parts of entry {name!r} do not make an array of shape {tuple(shape)}")
        tensors[name] = StoredTensor(parts[0].dtype, tuple(shape), partial(_joined, parts, tuple(shape)))


def _num_values(tensor: StoredTensor) -> int:
    return math.prod(tensor.shape)


def _joined(parts: list[StoredTensor], shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([part.values.reshape(-1) for part in parts]).reshape(shape)


def write_saved(file: BinaryIO, values: Mapping[str, Any]) -> None:
    """Write a dict for paddle.load to a file that is open for bytes, one tensor at a time.

    It is a pickle of protocol 4, as paddle.save writes it, with bfloat16 as uint16. values: dicts with tensors, pairs
    (name, tensor), which paddle.load reads as a tensor of that name, and plain values.
    """
    file.write(b"\x80\x04")
    for part in _pickled(values):
        file.write(part)
    file.write(b".")
    file.flush()


def _pickled(value: Any) -> Iterator[bytes | memoryview]:
    if isinstance(value, Mapping):
        yield b"}("
        for key, item in value.items():
            yield text_opcode(key)
            yield from _pickled(item)
        yield b"u"
    elif isinstance(value, tuple):
        yield text_opcode(value[0])
        yield from _described(value[1])
        yield b"\x86"
    elif isinstance(value, StoredTensor):
        yield from _described(value)
    else:
        yield plain_opcode(value)


def _described(tensor: StoredTensor) -> Iterator[bytes | memoryview]:
    """Yield the pickle of an array: a call that makes an empty one, and (1, shape, dtype, is_fortran, bytes)."""
    yield b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
    dtype = storage_dtype(tensor.dtype)
    order = b"|" if dtype.itemsize == 1 else b"<"
    state = b"(K\x03" + text_opcode(order.decode()) + b"NNN" + integer_opcode(-1) + integer_opcode(-1) + b"K\x00tb"
    yield b"(K\x01(" + b"".join(map(integer_opcode, tensor.shape)) + b"t"
    yield b"cnumpy\ndtype\n(" + text_opcode(dtype.str[1:]) + b"\x89\x88tR" + state
    yield b"\x89"
    size = tensor.num_bytes
    yield b"B" + struct.pack("<I", size) if size < 1 << 32 else b"\x8e" + struct.pack("<Q", size)
    for block in tensor.blocks():
        yield block.astype(dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8).data
    yield b"tb"
