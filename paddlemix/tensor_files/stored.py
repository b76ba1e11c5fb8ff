"""Tensors on disk. Knows file formats, not models.

A tensor is a NumPy array and the name of its dtype. NumPy has no bfloat16, so its bits come as uint16. Opening a file
reads no values. They are mapped on demand and unmapped with the array, so that going through a checkpoint needs the
memory of one tensor.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..json_object import read_object
from ..terminal.visible import visible_line

MAX_AXES = 32  # of a NumPy array
MAX_VALUES = 1 << 56
MAX_NAME = 200  # characters of a tensor's name in a message


class CheckpointError(ValueError):
    """A checkpoint cannot be read or does not fit its model. The text says what was found and what was expected."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that can be read: the name of its dtype, its shape, and a function that returns its values."""

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    @property
    def values(self) -> np.ndarray:
        """Read the values, again on each access. A mapped array is read-only."""
        return self.read()

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the values in row-major order, in contiguous arrays. The caller may drop each before the next."""
        yield np.ascontiguousarray(self.values)

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * storage_dtype(self.dtype).itemsize


def from_array(values: np.ndarray, dtype: str | None = None) -> StoredTensor:
    """Return an array in memory as a tensor. dtype: needed for bfloat16 only."""
    return StoredTensor(dtype or str(values.dtype), tuple(values.shape), lambda: values)


def map_array(path: Path, dtype: np.dtype, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    """Map the part of a file that starts at byte `offset` as a read-only array."""
    if math.prod(shape) == 0:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape or (1,)).reshape(shape)


def storage_dtype(dtype: str) -> np.dtype:
    """Return the NumPy dtype that holds a dtype's bits."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)


def is_shape(value) -> bool:
    """Return whether a value is the shape of an array that NumPy can address: at most 32 lengths, no booleans."""
    if not isinstance(value, (list, tuple)) or len(value) > MAX_AXES:
        return False
    if not all(type(number) is int and number >= 0 for number in value):
        return False
    return math.prod(number for number in value if number) < MAX_VALUES


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Add the file's name to a CheckpointError, which keeps its class."""
    try:
        yield
    except CheckpointError as error:
        raise type(error)(f"{path} is refused: {error}") from None


def refuse_pointer(start: bytes) -> None:
    """Raise CheckpointError if a file that begins with `start` is a Git LFS pointer."""
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError("it is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`")


def refuse_empty(path: Path, what: str = "it is not a weight file") -> None:
    """Raise CheckpointError for a file of 0 bytes without opening it: reading a special file may block forever."""
    if not os.path.getsize(path):
        raise CheckpointError(f"{what}: it has 0 bytes")


def read_json(path: Path) -> dict:
    """Read a JSON object. Raises CheckpointError naming the file and the place of a syntax error."""
    return read_object(path, CheckpointError)


def counted(names: Sized) -> str:
    """Return how many tensors there are, in words."""
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"


def preview(names: Iterable[str], most: int = 20) -> str:
    """Join names for an error text, at most `most` of them."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    cut = (name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..." for name in names[:most])
    return ", ".join(map(visible_line, cut)) + rest
