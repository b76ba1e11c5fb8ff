"""A new folder of parts at a place that a user named: checked first, whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from ..sizes import in_bytes
from .files import CheckpointError
from .layouts.part import Part
from .part_files import growing, write_json_files, write_weights
from .shards import parse_size

SPARE_BYTES = 64 << 20  # for side files, beside the tensors


def write_folder(
    destination: Path,
    parts: Sequence[Part],
    *,
    sources: Sequence[Path],
    max_shard_size: int | str,
    finish: Callable[[Path], None],
    title: str | None = None,
) -> None:
    """Write parts to a new folder. Raises CheckpointError, with the destination as it was, if that cannot be done.

    sources: what is read, which the destination must not be. finish: writes what else belongs into the unfinished
    folder. title: of a progress bar, None for no bar.
    """
    destination, max_bytes = check_places(sources, destination), parse_size(max_shard_size)
    num_bytes = sum(tensor.num_bytes for part in parts for tensor in part.tensors.values())
    check_space(destination.parent, num_bytes)
    with growing(destination) as folder:
        with tqdm(total=num_bytes, unit="B", unit_scale=True, disable=title is None, desc=title) as bar:
            for part in parts:
                write_weights(folder, part, max_bytes, bar)
        finish(folder)
        for part in reversed(parts):  # the folder itself, which comes first, gets its config.json last
            write_json_files(folder, part)


def check_places(sources: Sequence[Path], destination: Path) -> Path:
    """Return the destination's real path. Raises CheckpointError if it is a source or holds something."""
    destination = destination.expanduser().resolve()
    if destination in [source.resolve() for source in sources]:
        raise CheckpointError(f"the destination {destination} is also a source: name another folder")
    if destination.exists() and not destination.is_dir():
        raise CheckpointError(f"the destination {destination} is a file: name a folder")
    if destination.is_dir() and any(destination.iterdir()):
        raise CheckpointError(f"the destination {destination} is not empty: name a new folder, or empty this one")
    return destination


def check_space(folder: Path, num_bytes: int) -> None:
    """Raise CheckpointError if the disk below a folder, which need not exist yet, has less space than is needed."""
    folder = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < num_bytes + SPARE_BYTES:
        raise CheckpointError(
            f"the disk of {folder} has {in_bytes(free)} free, but the result needs {in_bytes(num_bytes + SPARE_BYTES)}"
        )
