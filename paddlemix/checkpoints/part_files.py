"""Parts of a layout to files: shards, indexes, side files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..output import write_json
from ..tensor_files.pdparams import write_pdparams
from ..tensor_files.safetensors import write_safetensors
from ..tensor_files.shards import split
from ..tensor_files.stored import CheckpointError, StoredTensor
from ..tensor_files.torch_bin import write_torch_bin
from .layouts.part import Part

ENDINGS = {"safetensors": "safetensors", "pdparams": "pdparams", "torch_bin": "bin"}


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
