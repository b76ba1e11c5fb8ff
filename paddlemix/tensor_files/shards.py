"""A model's weights as one file, or as shards with an index, in any of the file formats."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from ..foreign_json import OBJECT, KeyRules, check_finite, check_keys, check_values, shown
from ..output import replacing, write_json
from .pdparams import open_pdparams, write_saved
from .safetensors import open_safetensors, write_safetensors
from .stored import CheckpointError, StoredTensor, read_json
from .torch_bin import open_torch_bin, write_torch_bin

Tensors = dict[str, StoredTensor]
# The keys of an index. type: "lora" in PaddleNLP's index of an adapter, which the file's name says too.
INDEX_KEYS = KeyRules(used=frozenset({"weight_map"}), inert=frozenset({"metadata", "type"}))
MAX_SHARDS = 10_000
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class FileFormat:
    """How one kind of weight file is read and written.

    write: takes a file that is open for bytes. metadata: "format" in the header of a safetensors file: "pt" or "np",
    which other readers ask for.
    """

    suffix: str
    open: Callable[[Path], Tensors]
    write: Callable[[BinaryIO, Mapping[str, StoredTensor]], None]


def _safetensors(metadata: str) -> FileFormat:
    return FileFormat(".safetensors", open_safetensors, partial(write_safetensors, metadata={"format": metadata}))


SAFETENSORS, NUMPY_SAFETENSORS = _safetensors("pt"), _safetensors("np")
PDPARAMS = FileFormat(".pdparams", open_pdparams, write_saved)
TORCH_BIN = FileFormat(".bin", open_torch_bin, write_torch_bin)
FORMATS = {one.suffix: one for one in (TORCH_BIN, SAFETENSORS, PDPARAMS)}


def read_index(path: Path) -> dict[str, str]:
    """Return the tensor names and shards of an index, NAME.SUFFIX.index.json, whose shards have the same suffix.

    Raises CheckpointError for an index without shards, with a shard outside its folder, or with unknown keys.
    """
    values, suffix = read_json(path), Path(path.name.removesuffix(".index.json")).suffix
    check_finite(values, str(path), CheckpointError)
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
        if not shard.endswith(suffix):
            raise CheckpointError(f"{path} names the shard {shown(shard)}, expected files that end in {suffix}")
    return weight_map


def write_weights(folder: Path, stem: str, file_format: FileFormat, tensors: Tensors, max_bytes: int) -> list[str]:
    """Write new files of at most max_bytes each, with an index if there are several; return their names.

    stem: the name of a single file without its suffix. A tensor larger than max_bytes gets a separate file.
    """
    shards = split(tensors, max_bytes)
    names = [f"{stem}-{number:05d}-of-{len(shards):05d}{file_format.suffix}" for number in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else [stem + file_format.suffix]
    for name, shard in zip(names, shards, strict=True):
        with replacing(folder / name) as file:
            file_format.write(file, shard)
    if len(shards) > 1:
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index: dict[str, Any] = {"metadata": {"total_size": total_bytes(tensors)}, "weight_map": weight_map}
        write_json(folder / f"{stem}{file_format.suffix}.index.json", index)
    return names


def total_bytes(tensors: Mapping[str, StoredTensor]) -> int:
    return sum(tensor.num_bytes for tensor in tensors.values())


def split(tensors: Tensors, max_bytes: int) -> list[Tensors]:
    """Return shards of at most max_bytes each. A larger tensor is a separate shard."""
    shards: list[Tensors] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if filled + tensor.num_bytes > max_bytes and shards[-1]:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.num_bytes
    return shards


def parse_size(size: int | str) -> int:
    """Return the bytes of "5GB", "200MB" or a number of bytes. Raises ValueError."""
    if isinstance(size, int):
        return size
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]B)\s*", size.upper())
    if not match:
        raise ValueError(f"size {size!r} is not understood: expected bytes or a text such as '5GB' or '200MB'")
    return int(float(match.group(1)) * UNITS[match.group(2)])
