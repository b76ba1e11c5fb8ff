"""Parts of a layout to files: shards, indexes, side files, in a folder that takes its name when it is whole."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .files import CheckpointError, StoredTensor, write_json, write_safetensors
from .layouts.part import Part
from .pdparams import write_pdparams
from .shards import split
from .torch_bin import write_torch_bin

ENDINGS = {"safetensors": "safetensors", "pdparams": "pdparams", "torch_bin": "bin"}


@contextmanager
def growing(destination: Path) -> Iterator[Path]:
    """Yield a new folder that becomes `destination` on success and is removed on failure."""
    folder = destination.parent / f".{destination.name}.partial"
    destination.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink():  # not ours: what it points to must not be emptied
        folder.unlink()
    folder.mkdir(exist_ok=True)
    with _locked(folder):
        try:
            _empty(folder)
            yield folder
            _sync(folder)
            folder.replace(destination)
        except OSError as error:
            raise CheckpointError(f"{destination} could not be written: {error}; nothing was left there") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which goes with the process. Raises CheckpointError when another process holds it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise CheckpointError(f"another process is writing {folder}: wait for it") from None
    finally:
        os.close(handle)


def _empty(folder: Path) -> None:
    for child in folder.iterdir():
        shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()


def write_weights(home: Path, part: Part, max_bytes: int, bar: tqdm) -> list[str]:
    """Write one part's weights and their index below `home`; return the paths of the weight files from there."""
    if not part.tensors:
        return []
    folder = home / part.folder
    folder.mkdir(parents=True, exist_ok=True)
    ending, shards = ENDINGS[part.file_format], split(part.tensors, max_bytes)
    names = [f"{part.weights}-{number:05d}-of-{len(shards):05d}.{ending}" for number in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else [f"{part.weights}.{ending}"]
    for name, shard in zip(names, shards, strict=True):
        with open(folder / name, "xb") as file:
            _write_file(file, part, {key: _watched(key, tensor, bar) for key, tensor in shard.items()})
    if len(shards) > 1:
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(tensor.num_bytes for tensor in part.tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / f"{part.weights}.{ending}.index.json", index)
    return [f"{part.folder}/{name}" if part.folder else name for name in names]


def write_json_files(home: Path, part: Part) -> None:
    """Write one part's JSON files, config.json last."""
    for name, content in sorted(part.json_files.items(), key=lambda item: item[0] == "config.json"):
        write_json(home / part.folder / name, content)


def _write_file(file, part: Part, tensors: dict[str, StoredTensor]) -> None:
    if part.file_format == "safetensors":
        write_safetensors(file, tensors, {"format": part.metadata_format})
    elif part.file_format == "pdparams":
        write_pdparams(file, tensors)
    else:
        write_torch_bin(file, tensors)


@dataclass(frozen=True)
class _Watched(StoredTensor):
    """A tensor that moves the bar when it is written and names itself in errors."""

    name: str
    tensor: StoredTensor
    bar: tqdm

    def blocks(self) -> Iterator[np.ndarray]:
        """See StoredTensor."""
        try:
            for block in self.tensor.blocks():
                yield block
                self.bar.update(block.nbytes)
        except CheckpointError as error:
            raise CheckpointError(f"{self.name}: {error}") from None


def _watched(name: str, tensor: StoredTensor, bar: tqdm) -> StoredTensor:
    return _Watched(tensor.dtype, tensor.shape, tensor.read, name, tensor, bar)


def _sync(folder: Path) -> None:
    """Bring all that is in a folder to the disk, so that its name never stands for less than the whole."""
    for path in (*folder.rglob("*"), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
