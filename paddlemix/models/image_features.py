"""From the features of tiles to the sequence of features at an image's placeholders.

Knows no files and no text. `image.anyres.num_image_tokens` decides the counts; here features are only arranged and
placed, and a different count raises an error.
"""

from __future__ import annotations

import numpy as np
import paddle

from ..constants import IMAGE_TOKEN_ID
from ..image.anyres import grid_shape, unpad_box
from ..image.spec import ImageSpec


def arrange(tiles, size: tuple[int, int], spec: ImageSpec, image_newline=None):
    """Return the features [num_image_tokens, H] of one image from those of its tiles [num_tiles, P, H].

    size is the image's (width, height) in px. "spatial_unpad" joins the tiles to a map, removes the padding, appends
    image_newline [H] to each row, and puts the overview tile first (LLaVA-NeXT, Liu et al. 2024).
    """
    width = tiles.shape[-1]
    if spec.mode != "anyres" or spec.merge == "flat":
        return tiles.reshape([-1, width])
    if tiles.shape[0] == 1:
        is_plain = spec.merge != "spatial_unpad"
        return tiles[0] if is_plain else paddle.concat([tiles[0], image_newline.reshape([1, width])])
    columns, rows = grid_shape(size, spec)
    side = spec.patches_per_side
    if tiles.shape[0] != columns * rows + 1:
        raise ValueError(
            f"an image of {size[0]}x{size[1]} px needs {columns * rows + 1} tiles "
            f"(a grid of {columns}x{rows} and an overview), found {tiles.shape[0]}"
        )
    grid = tiles[1:].reshape([rows, columns, side, side, width]).transpose([0, 2, 1, 3, 4])
    grid = grid.reshape([rows * side, columns * side, width])
    if spec.merge == "spatial_unpad":
        grid = _unpad(grid, size, image_newline, spec)
    return paddle.concat([tiles[0], grid.reshape([-1, width])]) if grid.size else tiles[0]


def _unpad(grid, size: tuple[int, int], image_newline, spec: ImageSpec):
    top, bottom, left, right = unpad_box(size, grid.shape[1], grid.shape[0], is_rounded=spec.has_rounded_sizes)
    if bottom <= top:
        return grid[:0]
    newline = image_newline.astype(grid.dtype).reshape([1, 1, -1]).expand([bottom - top, 1, grid.shape[2]])
    if right <= left:
        return newline
    return paddle.concat([grid[top:bottom, left:right], newline], axis=1)


def place(embed_tokens, token_ids: np.ndarray, features: list):
    """Return embeddings [B, T, H]: image features at the placeholders, token embeddings elsewhere.

    token_ids int64 [B, T]; features: one tensor [n, H] an image, in row order. Raises ValueError unless each row's
    placeholders match the features of whole images. Pieces are concatenated, because every device has kernels for
    that, forward and backward.
    """
    check_counts(token_ids, [feature.shape[0] for feature in features])
    flat = token_ids.reshape(-1)
    is_image = flat == IMAGE_TOKEN_ID
    text = embed_tokens(paddle.to_tensor(flat[~is_image]))
    if not is_image.any():
        return text.reshape([*token_ids.shape, text.shape[-1]])
    images = paddle.concat(features).astype(text.dtype)
    starts = np.flatnonzero(np.diff(is_image)) + 1
    lengths = np.diff(np.concatenate([[0], starts, [flat.size]]))
    sources = (images, text) if is_image[0] else (text, images)
    pieces = [None] * len(lengths)
    for offset, source in enumerate(sources[: len(lengths)]):
        pieces[offset::2] = paddle.split(source, lengths[offset::2].tolist())
    return paddle.concat(pieces).reshape([*token_ids.shape, text.shape[-1]])


def check_counts(token_ids: np.ndarray, counts: list[int]) -> None:
    """Raise ValueError unless each row [B, T] has the placeholders of whole images. counts: of features, by image."""
    per_row = (token_ids == IMAGE_TOKEN_ID).sum(axis=1)
    if per_row.sum() != sum(counts):
        raise ValueError(
            f"{per_row.sum()} image placeholders in the token ids, but {sum(counts)} image features of "
            f"{len(counts)} images (features by image: {counts}): the ids were made for other images "
            "or another image spec"
        )
    ends = np.concatenate([[0], np.cumsum(counts)])
    for row, end in enumerate(np.cumsum(per_row)):
        if end not in ends:
            raise ValueError(
                f"row {row} has {per_row[row]} image placeholders, which is not the sum of whole images "
                f"(features by image: {counts})"
            )


def check_tiles(tiles_per_image: list[int], num_tiles: int) -> None:
    """Raise ValueError unless the numbers of tiles sum up to num_tiles."""
    if sum(tiles_per_image) != num_tiles:
        raise ValueError(
            f"tiles_per_image {tiles_per_image} sums to {sum(tiles_per_image)}, but there are {num_tiles} tiles"
        )
