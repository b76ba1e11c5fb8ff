"""Weights published as the difference to a base model, as LLaVA's first releases were: from and to such differences.

Both models are folders of transformers' LLaMA names (`model.layers. ...`), .bin or safetensors. As in LLaVA's own tools
the sum is taken in half precision: the base is rounded to the dtype of the other side, the two are added in
float32 and the result is rounded back (in float16, to the bit what torch's addition gives).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..tensor_files.stored import CheckpointError, StoredTensor, preview, read_json
from ..tensor_files.transforms import ALL, FLOATS, Derived, Region, cast_values, open_regions, row_blocks, widened
from .layouts.components import open_torch_weights
from .layouts.part import Part
from .new_folder import write_folder
from .output_folder import Place

# The vocabulary may have grown; the rows that the base lacks stand in the delta as they are.
VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
# What a LLaVA has and a LLaMA has not.
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
    """Write base + delta to a folder, with the side files (config.json, tokenizer) of the delta.

    title: of a progress bar. is_overwriting: as for `Place`. Raises CheckpointError, with nothing written, if
    the two do not fit.
    """
    place = Place(Path(output), "apply-delta", is_overwriting)
    _combine(Path(base), Path(delta), place, 1, max_shard_size, title)


def make_delta(
    base,
    target,
    output,
    *,
    max_shard_size: int | str = "5GB",
    title: str | None = None,
    is_overwriting: bool = False,
) -> None:
    """Write target - base to a folder, with the side files of the target. Raises CheckpointError."""
    place = Place(Path(output), "make-delta", is_overwriting)
    _combine(Path(base), Path(target), place, -1, max_shard_size, title)


def _combine(base: Path, other: Path, place: Place, sign: int, max_shard_size: int | str, title: str | None) -> None:
    config = read_json(other / "config.json")
    read_json(base / "config.json")  # a folder without it is no model
    tensors = combined(_open(base), _open(other), sign, f"{other} on the base {base}")
    part = Part("", "safetensors", "model", tensors, {"config.json": config})
    write_folder(
        place,
        [part],
        sources=[base, other],
        max_shard_size=max_shard_size,
        finish=lambda folder: _copy_side_files(other, folder),
        title=title,
    )


def _open(folder: Path) -> dict[str, StoredTensor]:
    tensors = open_torch_weights(folder)
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(COMPUTED)}


def combined(
    base: Mapping[str, StoredTensor], other: Mapping[str, StoredTensor], sign: int, what: str
) -> dict[str, StoredTensor]:
    """Return other + sign * base by name, lazily. what: the two, for messages. Raises CheckpointError."""
    missing = sorted(set(base) - set(other))
    extra = sorted(name for name in set(other) - set(base) if not name.startswith(ADDED))
    wrong = [name for name in sorted(set(other) & set(base)) if not _fits(name, base[name], other[name])]
    problems = [f"{len(missing)} tensors of the base are missing: {preview(missing)}"] if missing else []
    if extra:
        problems.append(f"{len(extra)} tensors are neither in the base nor of a projector or tower: {preview(extra)}")
    if wrong:
        shapes = [f"{name} ({list(other[name].shape)}, base {list(base[name].shape)})" for name in wrong]
        problems.append(f"{len(wrong)} tensors do not fit the base's: {preview(shapes)}")
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
    """Return tensor + sign * base in the rows that the base has. The values cost the memory of a region of them."""

    def open_both() -> Region:
        first, second = open_regions(tensor), open_regions(base)

        def region(rows: slice, columns: slice) -> np.ndarray:
            values = np.array(first(rows, columns))
            start = rows.start or 0
            head = values[: max(base.shape[0] - start, 0)]
            added = second(slice(start, start + len(head)), columns)
            for block in row_blocks(head):
                total = _wide(head[block], tensor.dtype)
                total += sign * _wide(_rounded(added[block], base.dtype, tensor.dtype), tensor.dtype)
                head[block] = cast_values(total, str(total.dtype), tensor.dtype)
            return values

        return region

    return Derived(tensor.dtype, tensor.shape, lambda: open_both()(ALL, ALL), "added", (tensor, base), open_both)


def _rounded(values: np.ndarray, dtype: str, target: str) -> np.ndarray:
    return values if dtype == target else cast_values(values, dtype, target)


def _wide(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return a new array in float32, or float64 where it was that."""
    return widened(values, dtype).astype(np.float64 if dtype == "float64" else np.float32)


def _copy_side_files(source: Path, folder: Path) -> None:
    """Copy what lies beside the weights: generation settings and the tokenizer. config.json is written already."""
    for path in sorted(source.iterdir()):
        is_weights = any(path.match(pattern) for pattern in NOT_COPIED)
        if path.is_file() and not is_weights and not path.name.startswith(".") and path.name != "config.json":
            shutil.copyfile(path, folder / path.name)
