"""Tensors on disk. Knows file formats, not models.

A tensor is a NumPy array and the name of its dtype; bfloat16, which NumPy lacks, comes as its bits in uint16. Opening a
file reads no values: they are mapped when they are asked for and let go with the array, so that going through a
checkpoint needs the memory of one tensor.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..foreign_json import OBJECT, KeyRules, check_finite, check_keys, check_values, shown
from ..json_object import read_object
from ..terminal.visible import visible_line

# What the index of shards may say. type: "lora" in PaddleNLP's index of an adapter, which its file's name says too.
INDEX_KEYS = KeyRules(used=frozenset({"weight_map"}), inert=frozenset({"metadata", "type"}))
MAX_AXES = 32  # of a NumPy array
MAX_VALUES = 1 << 56
MAX_SHARDS = 10_000
MAX_NAME = 200  # characters of a tensor's name in a message


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit its model; the text says what was found and expected."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that can be read: its dtype's name, its shape, and what fetches or computes its values."""

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    @property
    def values(self) -> np.ndarray:
        """Read the values, anew each time; a mapped array is read-only."""
        return self.read()

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the values in row-major order, in arrays that are contiguous; each may be let go before the next."""
        yield np.ascontiguousarray(self.values)

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * storage_dtype(self.dtype).itemsize


def held(values: np.ndarray, dtype: str | None = None) -> StoredTensor:
    """Wrap an array in memory; dtype is needed for bfloat16 only."""
    return StoredTensor(dtype or str(values.dtype), tuple(values.shape), lambda: values)


def map_array(path: Path, dtype: np.dtype, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    """Map a part of a file, which starts at byte `offset`, as a read-only array."""
    if math.prod(shape) == 0:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape or (1,)).reshape(shape)


def storage_dtype(dtype: str) -> np.dtype:
    """Return the NumPy dtype that holds a dtype's bits."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)


def is_shape(value) -> bool:
    """Tell if a list or tuple is the shape of an array that NumPy can address: at most 32 lengths, no booleans."""
    if not isinstance(value, (list, tuple)) or len(value) > MAX_AXES:
        return False
    if not all(type(number) is int and number >= 0 for number in value):
        return False
    return math.prod(number for number in value if number) < MAX_VALUES


def refuse_pointer(start: bytes) -> None:
    """Raise CheckpointError if a file, of which `start` is the beginning, only stands for one in Git LFS."""
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError("it is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`")


def refuse_empty(path: Path, what: str = "it is no file of weights") -> None:
    """Raise CheckpointError for a file of 0 bytes, unopened: what the kernel shows as one may never give a byte."""
    if not os.path.getsize(path):
        raise CheckpointError(f"{what}: it has 0 bytes")


def read_json(path: Path) -> dict:
    """Read a JSON object. Raises CheckpointError naming the file and the place of a syntax error."""
    return read_object(path, CheckpointError)


def read_finite_json(path: Path) -> dict:
    """Read a JSON object that describes a model. Raises CheckpointError for NaN and Infinity too, which are no JSON."""
    values = read_json(path)
    check_finite(values, str(path), CheckpointError)
    return values


def open_weights(folder: Path, single: str, index: str, open_file) -> dict[str, StoredTensor]:
    """Map a folder's tensors from the file `single`, else from `index` (a JSON with weight_map) and its shards.

    The whole file comes first, as in transformers: an index beside it is of an earlier save. An index can only name
    files that lie in its own folder. These may be symbolic links, as they are in the cache of the Hugging Face hub: an
    index cannot make one, and who can put a link there could put the file there as well.
    """
    folder = Path(folder)
    if (folder / single).is_file():
        return open_file(folder / single)
    if not (folder / index).is_file():
        raise CheckpointError(f"{folder} has neither {single} nor {index}: the weights are missing")
    weight_map = read_index(folder / index)
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(set(weight_map.values())):
        if not (folder / shard).is_file():
            raise CheckpointError(f"shard {shard} is missing in {folder}: copy or download the folder again")
        found = open_file(folder / shard)
        twice = sorted(name for name in found if name in tensors)
        if twice:
            raise CheckpointError(f"{folder / shard} holds tensors that another shard holds too: {preview(twice)}")
        tensors.update(found)
    absent = sorted(set(weight_map) - set(tensors))
    if absent:
        raise CheckpointError(f"{folder}: {len(absent)} tensors of {index} are in no shard: {preview(absent)}")
    return tensors


def read_index(path: Path) -> dict[str, str]:
    """Return the tensor names and shards of an index, NAME.ENDING.index.json, whose shards end in ENDING too.

    Raises CheckpointError for one without shards, with a shard outside its folder, or that states more than it should.
    """
    values, ending = read_finite_json(path), Path(path.name.removesuffix(".index.json")).suffix
    weight_map = values.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{path} has no 'weight_map' object from tensor names to file names")
    check_keys(values, INDEX_KEYS, str(path), CheckpointError)
    check_values(values, {"metadata": OBJECT.or_null()}, str(path), CheckpointError)
    shards = sorted(set(weight_map.values()))
    if len(shards) > MAX_SHARDS:
        raise CheckpointError(f"{path} names {len(shards):,} files, expected {MAX_SHARDS:,} at most")
    for shard in shards:
        if Path(shard).name != shard or shard == "..":
            raise CheckpointError(f"{path} names a shard outside its folder: {shown(shard)}")
        if not shard.endswith(ending):
            raise CheckpointError(f"{path} names the shard {shown(shard)}, expected files that end in {ending}")
    return weight_map


def preview(names: Iterable[str], most: int = 20) -> str:
    """Join names for an error text, at most `most` of them."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    cut = (name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..." for name in names[:most])
    return ", ".join(map(visible_line, cut)) + rest
