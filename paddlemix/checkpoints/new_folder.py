"""A folder of parts at a place that a user named."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from ..tensor_files.shards import parse_size
from ..tensor_files.stored import CheckpointError
from ..terminal.sizes import in_bytes
from .layouts.part import Part
from .output_folder import Place
from .part_files import write_json_files, write_weights

SPARE_BYTES = 64 << 20  # for side files, beside the tensors


def write_folder(
    place: Place,
    parts: Sequence[Part],
    *,
    sources: Sequence[Path],
    max_shard_size: int | str,
    finish: Callable[[Path], None],
    title: str | None = None,
) -> None:
    """Write parts to a folder. Raises CheckpointError, with the place as it was, if that cannot be done.

    sources: folders that are read. finish: writes what else belongs into the unfinished
    folder. title: of a progress bar, None for no bar.
    """
    place, max_bytes = place.checked(sources), parse_size(max_shard_size)
    num_bytes = sum(tensor.num_bytes for part in parts for tensor in part.tensors.values())
    check_space(place.folder.parent, num_bytes)
    with place.filled() as folder:
        with tqdm(total=num_bytes, unit="B", unit_scale=True, disable=title is None, desc=title) as bar:
            for part in parts:
                write_weights(folder, part, max_bytes, bar)
        finish(folder)
        for part in reversed(parts):  # the folder itself, which comes first, gets its config.json last
            write_json_files(folder, part)


def check_space(folder: Path, num_bytes: int) -> None:
    """Raise CheckpointError if the disk below a folder, which need not exist yet, has less space than is needed."""
    folder = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < num_bytes + SPARE_BYTES:
        raise CheckpointError(
            f"the disk of {folder} has {in_bytes(free)} free, but the result needs {in_bytes(num_bytes + SPARE_BYTES)}"
        )
