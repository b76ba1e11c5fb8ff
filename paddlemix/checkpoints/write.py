"""Writing a checkpoint to a folder: the weights of its parts, their JSON files, and whatever else belongs there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..output import write_json
from ..tensor_files.shards import parse_size, total_bytes, write_weights
from ..tensor_files.stored import CheckpointError, StoredTensor
from ..terminal.sizes import in_bytes
from .layouts.output_part import Part
from .output_folder import OutputFolder

SPARE_BYTES = 64 << 20  # for other files, beside the tensors


def write_folder(
    output: OutputFolder,
    parts: Sequence[Part],
    *,
    max_shard_size: int | str,
    finish: Callable[[Path], None],
    title: str | None = None,
) -> list[str]:
    """Write parts to a folder that was `checked`, and return the paths of the weight files from there.

    finish: gets the unfinished folder to write further files and to check it. title: of a progress bar, None for no
    bar. Raises CheckpointError, with the folder as it was, if that fails.
    """
    max_bytes, num_bytes = parse_size(max_shard_size), bytes_of(parts)
    check_space(output.folder.parent, num_bytes)
    names = []
    with output.filled() as folder:
        with tqdm(total=num_bytes, unit="B", unit_scale=True, disable=title is None, desc=title) as bar:
            for part in parts:
                names += write_part_weights(folder, part, max_bytes, bar)
        for part in reversed(parts):  # config.json of the folder itself comes last
            for name, content in sorted(part.json_files.items(), key=lambda item: item[0] == "config.json"):
                write_json(folder / part.folder / name, content)
        finish(folder)
    return names


def bytes_of(parts: Sequence[Part]) -> int:
    return sum(total_bytes(part.tensors) for part in parts)


def check_space(folder: Path, num_bytes: int) -> None:
    """Raise CheckpointError if the disk of a folder, which need not exist yet, has too little free space."""
    folder = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < num_bytes + SPARE_BYTES:
        raise CheckpointError(
            f"the disk of {folder} has {in_bytes(free)} free, but the result needs {in_bytes(num_bytes + SPARE_BYTES)}"
        )


def write_part_weights(output: Path, part: Part, max_bytes: int, bar: tqdm) -> list[str]:
    """Write the weights of one part below `output`; return the paths of the files from there."""
    if not part.tensors:
        return []
    folder = output / part.folder
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: _Watched(tensor.dtype, tensor.shape, tensor.read, name, tensor, bar)
        for name, tensor in part.tensors.items()
    }
    names = write_weights(folder, part.weights, part.file_format, tensors, max_bytes)
    return [f"{part.folder}/{name}" if part.folder else name for name in names]


@dataclass(frozen=True)
class _Watched(StoredTensor):
    """A tensor that moves a progress bar when it is written, and adds its name to errors."""

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
