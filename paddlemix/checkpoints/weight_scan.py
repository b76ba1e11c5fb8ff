"""The weight files of a folder and the tensors in them, as far as they can be read. Reads headers, no values.

Unlike `Layout.read`, it reports missing and broken files and goes on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..hub.model_files import ADAPTER_SHARDS, ADAPTER_WEIGHTS, BESIDE_ADAPTER, PARTS, WEIGHTS
from ..tensor_files.shards import FORMATS
from ..tensor_files.stored import CheckpointError, StoredTensor
from ..terminal.visible import visible_line
from .layouts.folder import Folder
from .layouts.projector import PROJECTOR_FILES

# Parts of a model, and a pattern for the names of their tensors, ours and those of every layout.
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

MAX_ABSENT = 20  # missing shards that are listed by name


@dataclass(frozen=True)
class WeightFile:
    """name: below the folder. num_tensors: None for a file that cannot be read."""

    name: str
    num_bytes: int
    num_tensors: int | None
    dtypes: tuple[str, ...]


@dataclass
class Scan:
    """tensors: by the names of file and tensor. problems: missing and broken files. notes: files that are not read."""

    files: list[WeightFile] = field(default_factory=list)
    tensors: dict[tuple[str, str], StoredTensor] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def component_of(name: str, file: str = "") -> str:
    """Return the part of a model that a tensor belongs to, by its name in any layout and its file."""
    folder = file.partition("/")[0] if "/" in file else ""
    if folder in IN_FOLDER:
        return IN_FOLDER[folder]
    return next(component for component, pattern in COMPONENTS.items() if re.search(pattern, name))


def scan_folder(folder: Folder) -> Scan:
    """Read the headers of a model's or an adapter's weights, in the folder and in the folders of its parts."""
    scan = Scan()
    for start in ("", *(f"{part}/" for part in PARTS)):
        for name in _weight_files(folder, start, scan):
            _scan_file(folder, name, scan)
    return scan


def scan_file(file: Folder) -> Scan:
    """Read the header of one file."""
    scan = Scan()
    _scan_file(file.related(file.path.parent), file.path.name, scan)
    return scan


def _weight_files(folder: Folder, start: str, scan: Scan) -> Iterator[str]:
    """Yield the names of a folder's weight files, of the main ones only those of one save.

    The order is that in which they are loaded, see `Folder.weights`.
    """
    part, is_found = folder.related(folder / start), False
    for name in (both for whole in WEIGHTS for both in (whole, f"{whole}.index.json")):
        if not part.has_any(name):
            continue
        if is_found:
            scan.notes.append(f"{start}{name} is there as well and is not read")
            continue
        is_found = True
        yield from _shards(part, name, start, scan) if name.endswith(".json") else [start + name]
    index = f"{ADAPTER_SHARDS}.index.json"
    if part.has_any(index, ADAPTER_SHARDS):
        yield from _shards(part, index, start, scan) if part.has_any(index) else [start + ADAPTER_SHARDS]
    for name in (*ADAPTER_WEIGHTS, *PROJECTOR_FILES, BESIDE_ADAPTER):
        if part.has_any(name):
            yield start + name


def _shards(folder: Folder, index: str, start: str, scan: Scan) -> list[str]:
    """Return the shards of an index that exist."""
    try:
        weight_map = folder.index(index)
    except (CheckpointError, OSError) as error:
        scan.problems.append(str(error))
        return []
    counts = Counter(weight_map.values())
    absent = {name for name in counts if not folder.has_any(name)}
    for name in sorted(absent)[:MAX_ABSENT]:
        what = visible_line(f"{start}{name}")
        scan.problems.append(f"shard {what} is missing ({counts[name]} of {len(weight_map)} tensors)")
    if len(absent) > MAX_ABSENT:
        scan.problems.append(f"{len(absent) - MAX_ABSENT} more shards are missing")
    return [start + name for name in sorted(counts.keys() - absent)]


def _scan_file(folder: Folder, name: str, scan: Scan) -> None:
    path = folder / name
    size, part = path.stat().st_size, folder.related(path.parent)
    try:
        tensors = part.tensors(path.name, FORMATS[path.suffix].open)
    except (CheckpointError, OSError) as error:
        scan.files.append(WeightFile(name, size, None, ()))
        scan.problems.append(str(error))
        return
    dtypes = tuple(sorted({tensor.dtype for tensor in tensors.values()}))
    scan.files.append(WeightFile(name, size, len(tensors), dtypes))
    scan.tensors |= {(name, tensor_name): tensor for tensor_name, tensor in tensors.items()}
