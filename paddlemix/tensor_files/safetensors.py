"""Reading and writing .safetensors files. The header is checked before any tensor is returned."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ..foreign_json import shown
from ..json_object import parse_object
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

SAFETENSORS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    # No model uses these. They are read so that they can be counted and named.
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
}
QUANTIZED = ("F8_", "F6_", "F4")  # prefixes of the header's dtypes for fp8 and smaller floats
# NOTE: NumPy has no bfloat16, so PaddleNLP writes its bits as U16, under these values of the header's "format".
NUMPY_FORMATS = ("np", "pd")
MAX_HEADER = 16 << 20  # bytes: more than a hundred thousand tensors


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Map the tensors of one .safetensors file. Raises CheckpointError for a damaged or cut-off one.

    The header has to be an object without repeated names, whose tensors fill the rest of the file without a gap and
    without an overlap, each with the bytes that its shape needs.
    """
    size = os.path.getsize(path)
    refuse_empty(path, f"{path} is not a whole safetensors file")
    with open(path, "rb") as file:
        start = file.read(64)
        num_header = int.from_bytes(start[:8], "little")
        if size < 8 or num_header > min(size - 8, MAX_HEADER):
            with refusing(path):
                refuse_pointer(start)
            raise CheckpointError(
                f"{path} is not a whole safetensors file: its header would be {num_header} bytes, expected "
                f"{min(size - 8, MAX_HEADER)} at most"
            )
        file.seek(8)
        header = parse_object(file.read(num_header), CheckpointError, f"the safetensors header of {path}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path} has a damaged safetensors header: __metadata__ is not an object of strings")
    start = 8 + num_header
    _check_offsets(path, header, size - start)
    codes = SAFETENSORS | ({"U16": "bfloat16"} if metadata.get("format") in NUMPY_FORMATS else {})
    return {name: _stored(path, name, entry, start, codes) for name, entry in header.items()}


def _check_offsets(path: Path, entries: dict, num_bytes: int) -> None:
    """Raise CheckpointError for tensors that overlap, end outside the file, or leave gaps."""
    for name, entry in entries.items():
        if not _is_entry(entry):
            where = f"{path} has a damaged safetensors header"
            raise CheckpointError(f"{where}: tensor {shown(name)} is described by {shown(entry)}")
    end = 0
    for first, last in sorted(tuple(entry["data_offsets"]) for entry in entries.values()):
        if first != end or last < first:
            raise CheckpointError(f"{path} has overlapping or scattered tensors at byte {first}")
        end = last
    if end != num_bytes:
        raise CheckpointError(
            f"{path} is cut off or has extra bytes: its header describes {end} bytes, it has {num_bytes}"
        )


def _is_entry(entry) -> bool:
    """Return whether a header's entry has the fields of a tensor, with values of the right types."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    offsets = entry.get("data_offsets")
    if not isinstance(offsets, list) or len(offsets) != 2:
        return False
    return is_shape(entry.get("shape")) and all(type(number) is int and number >= 0 for number in offsets)


def _stored(path: Path, name: str, entry: dict, start: int, codes: Mapping[str, str]) -> StoredTensor:
    dtype = codes.get(entry["dtype"])
    if dtype is None:
        known = ", ".join(codes)
        if entry["dtype"].startswith(QUANTIZED):
            known += ": it is quantized, load the model as it was before"
        raise CheckpointError(f"{path}: tensor {shown(name)} has dtype {entry['dtype']}, expected one of {known}")
    shape = tuple(entry["shape"])
    first, last = entry["data_offsets"]
    expected = math.prod(shape) * storage_dtype(dtype).itemsize
    if last - first != expected:
        raise CheckpointError(
            f"{path}: tensor {shown(name)} has {last - first} bytes, its shape {shape} needs {expected}"
        )
    return StoredTensor(dtype, shape, partial(map_array, path, storage_dtype(dtype), start + first, shape))


def write_safetensors(file, tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]) -> None:
    """Write tensors to a file that is open for bytes, one at a time."""
    codes = {dtype: code for code, dtype in SAFETENSORS.items()}
    header: dict = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        offsets = [end, end + tensor.num_bytes]
        header[name] = {"dtype": codes[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        end += tensor.num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        for block in tensor.blocks():
            file.write(block.data)
    file.flush()
