"""The weight files of a folder and the tensors in them, as far as they can be read. Reads headers, no values.

Unlike `layouts.*.open_tensors` it goes on after a file that is missing or broken, and tells of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..hub.model_files import ADAPTER_SHARDS, ADAPTER_WEIGHTS, BESIDE_ADAPTER, PARTS, WEIGHTS
from ..tensor_files.stored import CheckpointError, StoredTensor, read_index
from ..terminal.visible import visible_line
from .side_files import PROJECTOR_FILES, READERS

# Parts of a model and how the names of their tensors are told apart, in our names and in those of every layout.
COMPONENTS = {
    "vision tower": r"vision_tower\.|visual_encoder\.|vision_model\.",
    "projector": r"mm_projector\.|multi_modal_projector\.|(^|\.)projector\.",
    "image_newline": r"image_newline",
    "embeddings": r"(embed_tokens|wte|tok_embeddings)\.",
    "layers": r"(layers|blocks)\.\d+\.|(^|\.)norm(_f)?\.",
    "head": r"lm_head\.|(^|\.)output\.",
    "other": r"",
}
IN_FOLDER = {"visual_encoder": "vision tower", "vision_tower": "vision tower", "projector": "projector"}

MAX_ABSENT = 20  # shards that are named


@dataclass(frozen=True)
class WeightFile:
    """name: below the folder. num_tensors: None for a file that cannot be read."""

    name: str
    num_bytes: int
    num_tensors: int | None
    dtypes: tuple[str, ...]


@dataclass
class Scan:
    """tensors: by their file's name and their own. problems: what is missing or broken. notes: what is not read."""

    files: list[WeightFile] = field(default_factory=list)
    tensors: dict[tuple[str, str], StoredTensor] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def component_of(name: str, file: str = "") -> str:
    """Return the part of a model that a tensor belongs to, by its name in any layout and the file it lies in."""
    folder = file.partition("/")[0] if "/" in file else ""
    if folder in IN_FOLDER:
        return IN_FOLDER[folder]
    return next(component for component, pattern in COMPONENTS.items() if re.search(pattern, name))


def scan_folder(folder: Path) -> Scan:
    """Read the headers of a model's or an adapter's weights, in the folder and in those of its parts."""
    scan = Scan()
    for start in ("", *(f"{part}/" for part in PARTS)):
        for name in _weight_files(folder, start, scan):
            _scan_file(folder, name, scan)
    return scan


def scan_file(path: Path) -> Scan:
    """Read the header of one file."""
    scan = Scan()
    _scan_file(path.parent, path.name, scan)
    return scan


def _weight_files(folder: Path, start: str, scan: Scan) -> Iterator[str]:
    """Yield the names of a folder's weight files that are there, the main ones of one save only.

    The order is that in which they are loaded, see `files.open_weights`.
    """
    home, is_found = folder / start, False
    for name in (both for whole in WEIGHTS for both in (whole, f"{whole}.index.json")):
        if not (home / name).is_file():
            continue
        if is_found:
            scan.notes.append(f"{start}{name} is there as well and is not read")
            continue
        is_found = True
        yield from _shards(home, home / name, start, scan) if name.endswith(".json") else [start + name]
    index = home / f"{ADAPTER_SHARDS}.index.json"
    if index.is_file() or (home / ADAPTER_SHARDS).is_file():
        yield from _shards(home, index, start, scan) if index.is_file() else [start + ADAPTER_SHARDS]
    for name in (*ADAPTER_WEIGHTS, *PROJECTOR_FILES, BESIDE_ADAPTER):
        if (home / name).is_file():
            yield start + name


def _shards(home: Path, index: Path, start: str, scan: Scan) -> list[str]:
    """Return the shards of an index that are there."""
    try:
        weight_map = read_index(index)
    except (CheckpointError, OSError) as error:
        scan.problems.append(str(error))
        return []
    counts = Counter(weight_map.values())
    absent = {name for name in counts if not (home / name).is_file()}
    for name in sorted(absent)[:MAX_ABSENT]:
        what = visible_line(f"{start}{name}")
        scan.problems.append(f"shard {what} is missing ({counts[name]} of {len(weight_map)} tensors)")
    if len(absent) > MAX_ABSENT:
        scan.problems.append(f"{len(absent) - MAX_ABSENT} more shards are missing")
    return [start + name for name in sorted(counts.keys() - absent)]


def _scan_file(folder: Path, name: str, scan: Scan) -> None:
    path = folder / name
    size = path.stat().st_size
    try:
        tensors = READERS[path.suffix](path)
    except (CheckpointError, OSError) as error:
        scan.files.append(WeightFile(name, size, None, ()))
        scan.problems.append(str(error))
        return
    dtypes = tuple(sorted({tensor.dtype for tensor in tensors.values()}))
    scan.files.append(WeightFile(name, size, len(tensors), dtypes))
    scan.tensors |= {(name, tensor_name): tensor for tensor_name, tensor in tensors.items()}
