"""Delta weights: the difference between a model and its base, as LLaVA's first releases were published.

Both models are folders with transformers' LLaMA names (`model.layers. ...`), .bin or safetensors. As in LLaVA's own
tools the sum is in half precision: the base is rounded to the dtype of the other side, the two are added in float32 and
the result is rounded back (in float16, bit-equal to torch's addition).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..tensor_files.shards import SAFETENSORS
from ..tensor_files.stored import CheckpointError, StoredTensor, counted, preview
from ..tensor_files.transforms import ALL, FLOATS, Derived, Region, cast_values, open_regions, row_blocks, widened
from .layouts.components import open_torch_weights
from .layouts.folder import Folder
from .layouts.output_part import Part
from .output_folder import OutputFolder
from .write import write_folder

# The vocabulary may have grown. Rows that the base lacks are in the delta unchanged.
VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
# Tensors that a LLaVA has and a LLaMA lacks.
ADDED = ("model.mm_projector.", "model.vision_tower.", "model.image_newline")
COMPUTED = "rotary_emb.inv_freq"
NOT_COPIED = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.index.json", "*.pdparams", "*.h5", "*.msgpack", "*.md")


def apply_delta(
    base,
    delta,
    output,
    *,
    max_shard_size: int | str = "5GB",
    title: str | None = None,
    is_overwriting: bool = False,
) -> None:
    """Write base + delta to a folder, with the other files (config.json, tokenizer) of the delta.

    title: of a progress bar. is_overwriting: see `OutputFolder`. Raises CheckpointError, with nothing written, if
    the two do not fit.
    """
    place = OutputFolder(Path(output), "apply-delta", is_overwriting)
    _combine(Folder.of(base), Folder.of(delta), place, 1, max_shard_size, title)


def make_delta(
    base,
    target,
    output,
    *,
    max_shard_size: int | str = "5GB",
    title: str | None = None,
    is_overwriting: bool = False,
) -> None:
    """Write target - base to a folder, with the other files of the target. Raises CheckpointError."""
    place = OutputFolder(Path(output), "make-delta", is_overwriting)
    _combine(Folder.of(base), Folder.of(target), place, -1, max_shard_size, title)


def _combine(
    base: Folder, other: Folder, place: OutputFolder, sign: int, max_shard_size: int | str, title: str | None
) -> None:
    config = other.json("config.json")
    base.json("config.json")  # without it the folder is not a model
    tensors = combined(_open(base), _open(other), sign, f"{other} on the base {base}")
    part = Part("", SAFETENSORS, "model", tensors, {"config.json": config})
    write_folder(
        place.checked([base.path, other.path]),
        [part],
        max_shard_size=max_shard_size,
        finish=lambda folder: _copy_other_files(other.path, folder),
        title=title,
    )


def _open(folder: Folder) -> dict[str, StoredTensor]:
    tensors = open_torch_weights(folder)
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(COMPUTED)}


def combined(
    base: Mapping[str, StoredTensor], other: Mapping[str, StoredTensor], sign: int, what: str
) -> dict[str, StoredTensor]:
    """Return other + sign * base by name, lazily. what: names both, for messages. Raises CheckpointError."""
    missing = sorted(set(base) - set(other))
    extra = sorted(name for name in set(other) - set(base) if not name.startswith(ADDED))
    wrong = [name for name in sorted(set(other) & set(base)) if not _fits(name, base[name], other[name])]
    problems = [f"{counted(missing)} of the base missing: {preview(missing)}"] if missing else []
    if extra:
        problems.append(f"{counted(extra)} neither in the base nor of a projector or tower: {preview(extra)}")
    if wrong:
        shapes = [f"{name} ({list(other[name].shape)}, base {list(base[name].shape)})" for name in wrong]
        problems.append(f"{counted(wrong)} of another shape or dtype than the base's: {preview(shapes)}")
    if problems:
        raise CheckpointError(f"{what}: {'; '.join(problems)}")
    return {name: _sum(tensor, base[name], sign) if name in base else tensor for name, tensor in other.items()}


def _fits(name: str, base: StoredTensor, other: StoredTensor) -> bool:
    if base.dtype not in FLOATS or other.dtype not in FLOATS or not base.shape:
        return False
    if name in VOCABULARY:
        return base.shape[1:] == other.shape[1:] and base.shape[0] <= other.shape[0]
    return base.shape == other.shape


def _sum(tensor: StoredTensor, base: StoredTensor, sign: int) -> StoredTensor:
    """Return tensor + sign * base in the rows of the base. Reading needs the memory of one region of the values."""

    def open_both() -> Region:
        first, second = open_regions(tensor), open_regions(base)

        def region(rows: slice, columns: slice) -> np.ndarray:
            values = np.array(first(rows, columns))
            start = rows.start or 0
            head = values[: max(base.shape[0] - start, 0)]
            added = second(slice(start, start + len(head)), columns)
            for block in row_blocks(head):
                total = _wide(head[block], tensor.dtype)
                part = added[block]
                part = part if base.dtype == tensor.dtype else cast_values(part, base.dtype, tensor.dtype)
                total += sign * _wide(part, tensor.dtype)
                head[block] = cast_values(total, str(total.dtype), tensor.dtype)
            return values

        return region

    return Derived(tensor.dtype, tensor.shape, lambda: open_both()(ALL, ALL), "added", (tensor, base), open_both)


def _wide(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return a new array in float32, or float64 where it was that."""
    return widened(values, dtype).astype(np.float64 if dtype == "float64" else np.float32)


def _copy_other_files(source: Path, folder: Path) -> None:
    """Copy the files beside the weights: generation settings and the tokenizer. config.json is written already."""
    for path in sorted(source.iterdir()):
        is_weights = any(path.match(pattern) for pattern in NOT_COPIED)
        if path.is_file() and not is_weights and not path.name.startswith(".") and path.name != "config.json":
            shutil.copyfile(path, folder / path.name)
