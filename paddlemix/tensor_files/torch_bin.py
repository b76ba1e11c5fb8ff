"""torch's files (.bin, .pt, .pth) without torch: state dicts, whose values are read on demand.

Two formats are read: the zip archive of torch.save since 1.6 (data.pkl describes the tensors, data/N have their values,
uncompressed), and the older one (pickles, then the values). The first one is written.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .pickle_reader import PickleReader, as_tuple, integer_opcode, new_dict, text_opcode
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
from .torch_archive import SAVE_AGAIN, ZIP_MAGIC, content_of, read_records, write_record

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
LEGACY_PROTOCOL = 1001
MAX_PICKLE = 256 << 20


@dataclass(frozen=True)
class _Dtype:
    name: str


@dataclass(frozen=True)
class _Storage:
    """num_values consecutive numbers. key: their name in the file."""

    dtype: str
    key: str
    num_values: int

    @property
    def num_bytes(self) -> int:
        return self.num_values * storage_dtype(self.dtype).itemsize


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage. offset, stride: in values."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def open_torch_bin(path: Path) -> dict[str, StoredTensor]:
    """Map the tensors of a state dict that torch saved.

    Raises CheckpointError for a damaged file, and for anything but named tensors. No code in the file is run.
    """
    path = Path(path)
    with refusing(path):
        wrong = f"it does not begin as what torch.save writes; if torch can load it, {SAVE_AGAIN}"
        refuse_empty(path, wrong)
        with open(path, "rb") as file:
            start = file.read(64)
            refuse_pointer(start)
            file.seek(0)
            if start.startswith(ZIP_MAGIC):
                values, places = _read_zip(file)
            elif start.startswith(LEGACY_MAGIC):
                values, places = _read_legacy(file)
            else:
                raise CheckpointError(wrong)
        if not isinstance(values, dict):
            raise CheckpointError(f"it holds a {type(values).__name__}, expected a dict of tensors")
        return {name: _stored(path, name, value, places) for name, value in values.items()}


def _stored(path: Path, name: Any, value: Any, places: Mapping[str, int]) -> StoredTensor:
    if not isinstance(name, str) or not isinstance(value, _Tensor):
        raise CheckpointError(f"entry {name!r} is a {type(value).__name__}, expected a tensor under a name")
    dtype, itemsize = storage_dtype(value.storage.dtype), storage_dtype(value.storage.dtype).itemsize
    start = places[value.storage.key] + value.offset * itemsize
    read = partial(_read, path, dtype, start, value.shape, value.stride)
    return StoredTensor(value.storage.dtype, value.shape, read)


def _read(path: Path, dtype: np.dtype, start: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> np.ndarray:
    """Map the part of the file that a tensor spans, as an array with its strides."""
    if math.prod(shape) == 0 or stride == _row_major(shape):
        return map_array(path, dtype, start, shape)
    flat = map_array(path, dtype, start, (_span(shape, stride),))
    strides = [step * dtype.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(flat, shape, strides, writeable=False)


def _span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Return the number of values from a tensor's first to its last one."""
    return 1 + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))


def _rebuild(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Tensor:
    """Replace torch's function of that name. Further arguments (gradients, hooks) are ignored."""
    if not isinstance(storage, _Storage) or not is_shape([offset]) or not (is_shape(shape) and is_shape(stride)):
        raise CheckpointError("it holds a tensor with a wrong storage, offset, shape or strides")
    shape, stride = tuple(shape), tuple(stride)
    if len(shape) != len(stride):
        raise CheckpointError(f"it holds a tensor of shape {shape} with strides {stride}")
    count = math.prod(shape)
    if count > storage.num_values or (count and offset + _span(shape, stride) > storage.num_values):
        raise CheckpointError(
            f"it holds a tensor of shape {shape} with strides {stride} at value {offset}, which its storage of "
            f"{storage.num_values} values does not hold"
        )
    return _Tensor(storage, offset, shape, stride)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


KNOWN = {
    ("collections", "OrderedDict"): new_dict,
    ("builtins", "tuple"): as_tuple,
    ("__builtin__", "tuple"): as_tuple,
    ("torch", "Size"): as_tuple,
    ("torch._utils", "_rebuild_tensor"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    **{("torch", name): _Dtype(dtype) for name, dtype in STORAGES.items()},
}


def _storage(identity: Any) -> _Storage:
    """Return the storage of ("storage", type, key, device, number of values, and in the old format a view)."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise CheckpointError("it refers to something else than the values of tensors")
    _, dtype, key, _, num_values, *view = identity
    if not isinstance(dtype, _Dtype) or not isinstance(key, str) or not is_shape([num_values]):
        raise CheckpointError("it describes the values of a tensor in an unknown way")
    if view not in ([], [None]):
        raise CheckpointError(f"it holds a view of another storage: {SAVE_AGAIN}")
    return _Storage(dtype.name, key, num_values)


def _read_zip(file: BinaryIO) -> tuple[Any, dict[str, int]]:
    """Return the object in data.pkl, and the byte at which the values of each key begin."""
    records = read_records(file)
    pickles = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise CheckpointError(f"it is a zip archive with {len(pickles)} files data.pkl, expected one: not torch's")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in records:
        raise CheckpointError(f"it is a TorchScript program, not a state dict: {SAVE_AGAIN}")
    if f"{root}byteorder" in records and content_of(file, records[f"{root}byteorder"], 16) != b"little":
        raise CheckpointError(f"its numbers are not little-endian: {SAVE_AGAIN}")
    places: dict[str, int] = {}

    def find(identity: Any) -> _Storage:
        storage = _storage(identity)
        if f"{root}data/{storage.key}" not in records:
            raise CheckpointError(f"the archive has no file {root}data/{storage.key}, which it refers to")
        place, length = records[f"{root}data/{storage.key}"]
        if storage.num_bytes != length:
            raise CheckpointError(f"{root}data/{storage.key} has {length} bytes, expected {storage.num_bytes}")
        places[storage.key] = place
        return storage

    content = io.BytesIO(content_of(file, records[pickles[0]], MAX_PICKLE))
    return PickleReader(content, KNOWN, find).load(), places


def _read_legacy(file: BinaryIO) -> tuple[Any, dict[str, int]]:
    """Return the object in the fourth pickle, and the byte at which the values of each key begin.

    The file has a magic number, the protocol, {"little_endian"}, the tensors, the list of keys, and for each key the
    number of its values (int64) and the values.
    """
    storages: dict[str, _Storage] = {}

    def find(identity: Any) -> _Storage:
        storage = _storage(identity)
        if storages.setdefault(storage.key, storage) != storage:
            raise CheckpointError(f"it describes the storage {storage.key!r} in two ways")
        return storage

    reader = PickleReader(file, KNOWN, find)
    _, protocol, system, values, keys = (reader.load() for _ in range(5))
    if protocol != LEGACY_PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError(f"it is not of the last version of torch's old format: {SAVE_AGAIN}")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(storages):
        raise CheckpointError("its list of storages does not fit its tensors")
    places: dict[str, int] = {}
    start, size = file.tell(), file.seek(0, io.SEEK_END)
    for key in keys:
        file.seek(start)
        count = int.from_bytes(file.read(8), "little")
        end = start + 8 + storages[key].num_bytes
        if count != storages[key].num_values or end > size:
            raise CheckpointError(f"it is cut off or damaged at byte {start}: copy or download it again")
        places[key], start = start + 8, end
    return values, places


def write_torch_bin(file: BinaryIO, tensors: Mapping[str, StoredTensor]) -> None:
    """Write a state dict for torch.load to a file that is open for bytes, one tensor at a time."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        write_record(archive, "data.pkl", _describe(tensors), 0)
        write_record(archive, "byteorder", [b"little"], 0)
        for number, tensor in enumerate(tensors.values()):
            write_record(archive, f"data/{number}", _bytes_of(tensor), tensor.num_bytes)
        write_record(archive, "version", [b"3\n"], 0)
    file.flush()


def _bytes_of(tensor: StoredTensor) -> Iterator[memoryview]:
    """Yield a tensor's bytes, which are read here and freed with the generator."""
    for block in tensor.blocks():
        yield block.reshape(-1).view(np.uint8).data


def _describe(tensors: Mapping[str, StoredTensor]) -> Iterator[bytes]:
    """Yield the pickle of a state dict: for each tensor a call of torch's function that rebuilds it from a storage."""
    names = {dtype: name for name, dtype in STORAGES.items()}
    ordered_dict = b"ccollections\nOrderedDict\n)R"
    yield b"\x80\x02" + ordered_dict + b"("
    for number, (name, tensor) in enumerate(tensors.items()):
        yield text_opcode(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(("
        yield (
            text_opcode("storage")
            + b"ctorch\n"
            + names[tensor.dtype].encode()
            + b"\n"
            + text_opcode(str(number))
            + text_opcode("cpu")
        )
        yield integer_opcode(math.prod(tensor.shape)) + b"tQ" + integer_opcode(0)
        for numbers in (tensor.shape, _row_major(tensor.shape)):
            yield b"(" + b"".join(map(integer_opcode, numbers)) + b"t"
        yield b"\x89" + ordered_dict + b"tR"
    yield b"u."
