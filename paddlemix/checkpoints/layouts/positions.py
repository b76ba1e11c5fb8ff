"""Position embeddings of a vision tower for images of another size."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from ...models.config import VisionConfig
from ...tensor_files.stored import CheckpointError, StoredTensor
from ...tensor_files.transforms import Derived, cast_values, widened

NAME = "vision_tower.position_embedding"
SHARPNESS = -0.75  # of the cubic kernel, as torch has it


def resize_tower(
    config: VisionConfig, tensors: Mapping[str, StoredTensor], side: int
) -> tuple[VisionConfig, dict[str, StoredTensor]]:
    """Return a tower for images of `side` px, with position embeddings interpolated from this one's.

    The row of a class token stays. A tower for that size is returned as it is. A resized one has no name, since the
    name is that of the original. Raises CheckpointError for a size below one patch.
    """
    if side == config.image_size:
        return config, dict(tensors)
    if side < config.patch_size:
        raise CheckpointError(f"image size {side} px holds no patch of the tower, which has {config.patch_size} px")
    new = dataclasses.replace(config, image_size=side, name="")
    old = tensors[NAME]
    num_rows = new.patches_per_side, config.patches_per_side, int(config.has_class_token)

    def read() -> np.ndarray:
        return cast_values(_resized(widened(old.values, old.dtype), *num_rows), "float32", old.dtype)

    resized = Derived(old.dtype, (new.num_positions, config.hidden_size), read, "interpolated", (old,))
    return new, {**tensors, NAME: resized}


def _resized(rows: np.ndarray, new_side: int, old_side: int, num_kept: int) -> np.ndarray:
    """Return the rows float32 [num_kept + new_side ** 2, width] of a table of a first num_kept and a square grid."""
    kept, grid = rows[:num_kept], rows[num_kept:].reshape(old_side, old_side, -1)
    matrix = bicubic_matrix(old_side, new_side)
    grid = np.einsum("ai,bj,ijc->abc", matrix, matrix, grid, optimize=True)
    return np.concatenate([kept, grid.reshape(new_side**2, -1)]).astype(np.float32)


def bicubic_matrix(num_old: int, num_new: int) -> np.ndarray:
    """Return float64 [num_new, num_old]: the weights of the old samples on a line for each new one.

    Cubic convolution (Keys 1981) with pixel centers, repeated edges, and without smoothing when the size decreases:
    `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`, which is what transformers'
    `interpolate_pos_encoding` calls.
    """
    matrix = np.zeros((num_new, num_old))
    for row in range(num_new):
        place = (row + 0.5) * num_old / num_new - 0.5
        first = math.floor(place) - 1
        for column in range(first, first + 4):
            matrix[row, min(max(column, 0), num_old - 1)] += _kernel(abs(place - column))
    return matrix


def _kernel(distance: float) -> float:
    if distance <= 1:
        return ((SHARPNESS + 2) * distance - (SHARPNESS + 3)) * distance**2 + 1
    if distance < 2:
        return SHARPNESS * (((distance - 5) * distance + 8) * distance - 4)
    return 0.0
