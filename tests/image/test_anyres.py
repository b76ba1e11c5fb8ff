"""Tile geometry against the official formulas, restated here in another style, and against transformers."""

import math

import numpy as np
import pytest
import torch
from transformers.models.llava_next.modeling_llava_next import unpad_image

from paddlemix.image.anyres import fitted_size, grid_shape, num_image_tokens, num_tiles, select_grid, unpad_box
from paddlemix.image.spec import ANYRES_GRIDS, ImageSpec

ANYRES = ImageSpec(mode="anyres", grids=ANYRES_GRIDS, merge="spatial_unpad")

# (width, height): canvas (width, height), tiles, rows x columns after unpadding, tokens of LLaVA v1.6
TABLE = [
    ((336, 336), (336, 672), 3, (24, 24), 1176),
    ((100, 100), (336, 672), 3, (24, 24), 1176),
    ((1, 1), (336, 672), 3, (24, 24), 1176),
    ((672, 336), (672, 336), 3, (24, 48), 1752),
    ((1000, 500), (672, 336), 3, (24, 48), 1752),
    ((336, 672), (336, 672), 3, (48, 24), 1776),
    ((500, 1000), (336, 672), 3, (48, 24), 1776),
    ((640, 480), (672, 672), 5, (36, 48), 2340),
    ((1024, 768), (672, 672), 5, (36, 48), 2340),
    ((480, 640), (672, 672), 5, (48, 36), 2352),
    ((427, 640), (672, 672), 5, (48, 32), 2160),
    ((333, 500), (336, 672), 3, (36, 24), 1476),
    ((1920, 1080), (672, 672), 5, (28, 48), 1948),
    ((672, 672), (672, 672), 5, (48, 48), 2928),
    ((1344, 1344), (672, 672), 5, (48, 48), 2928),
    ((1008, 336), (1008, 336), 4, (24, 72), 2328),
    ((2000, 500), (1008, 336), 4, (18, 72), 1890),
    ((500, 2000), (336, 1008), 4, (72, 18), 1944),
    ((3000, 200), (1008, 336), 4, (4, 72), 868),
    ((1000, 1), (1008, 336), 4, (0, 72), 576),
    ((1, 1000), (336, 1008), 4, (72, 0), 648),
]

ARRAY_SIZES = [row[0] for row in TABLE] + [
    (2, 1),
    (1, 2),
    (7, 500),
    (336, 335),
    (337, 336),
    (1009, 337),
    (800, 599),
    (599, 800),
    (1333, 1000),
    (1999, 499),
    (123, 456),
    (5000, 1),
]


def restated_canvases(sizes: np.ndarray, grids=ANYRES_GRIDS) -> np.ndarray:
    """Choose the canvas of all sizes [n, 2] at once: smallest (-effective, wasted, position in the list)."""
    width, height = sizes.T.astype(np.float64)
    keys = []
    for grid_width, grid_height in grids:
        scale = np.minimum(grid_width / width, grid_height / height)
        effective = np.minimum(np.floor(width * scale) * np.floor(height * scale), width * height)
        keys.append(-effective * 1e8 + (grid_width * grid_height - effective))
    return np.asarray(grids)[np.argmin(np.stack(keys), axis=0)]


def restated_token_counts(sizes: np.ndarray) -> np.ndarray:
    """Count the tokens of all sizes [n, 2] at once."""
    width, height = sizes.T.astype(np.float64)
    columns, rows = restated_canvases(sizes).T // 14
    is_wide = width / height > columns / rows
    pad_rows = np.where(is_wide, (rows - np.floor(height * (columns / width)).astype(int)) // 2, 0)
    pad_columns = np.where(is_wide, 0, (columns - np.floor(width * (rows / height)).astype(int)) // 2)
    return 576 + (rows - 2 * pad_rows) * (columns - 2 * pad_columns + 1)


def random_sizes(count: int) -> np.ndarray:
    """Draw sizes: half of them small (many ties and exact fits), half up to 4000 px, both edges log-uniform."""
    rng = np.random.default_rng(0)
    large = np.exp(rng.uniform(0, math.log(4000), (count // 2, 2))).astype(int)
    return np.concatenate([rng.integers(1, 700, (count - count // 2, 2)), large])


@pytest.mark.parametrize(("size", "canvas", "tiles", "kept", "tokens"), TABLE)
def test_geometry_is_that_of_the_table(size, canvas, tiles, kept, tokens):
    top, bottom, left, right = unpad_box(size, canvas[0] // 14, canvas[1] // 14)

    assert select_grid(size, ANYRES_GRIDS) == canvas
    assert grid_shape(size, ANYRES) == (canvas[0] // 336, canvas[1] // 336)
    assert num_tiles(size, ANYRES) == tiles
    assert (bottom - top, right - left) == kept
    assert num_image_tokens(size, ANYRES) == tokens


def test_canvas_and_count_equal_the_official_formulas_on_10000_sizes():
    sizes = random_sizes(10_000)

    canvases = [select_grid(size, ANYRES_GRIDS) for size in sizes]
    counts = [num_image_tokens(size, ANYRES) for size in sizes]

    np.testing.assert_array_equal(canvases, restated_canvases(sizes))
    np.testing.assert_array_equal(counts, restated_token_counts(sizes))


@pytest.mark.parametrize("size", ARRAY_SIZES)
def test_count_equals_that_of_merged_feature_maps(size):
    columns, rows = grid_shape(size, ANYRES)
    tiles = torch.arange((1 + columns * rows) * 576).reshape(-1, 576, 1)
    mosaic = tiles[1:].view(rows, columns, 24, 24, 1).permute(4, 0, 2, 1, 3).flatten(1, 2).flatten(2, 3)
    kept = unpad_image(mosaic, (size[1], size[0]))  # transformers: (height, width)
    merged = torch.cat([kept, torch.full((1, kept.shape[1], 1), -1)], dim=2).flatten()

    top, bottom, left, right = unpad_box(size, columns * 24, rows * 24)

    assert torch.equal(mosaic[:, top:bottom, left:right], kept)
    assert num_image_tokens(size, ANYRES) == 576 + merged.numel()


@pytest.mark.parametrize("size", ARRAY_SIZES)
def test_kept_box_is_where_the_fitted_image_is_on_the_canvas(size):
    canvas = select_grid(size, ANYRES_GRIDS)
    width, height = fitted_size(size, canvas)
    x, y = (canvas[0] - width) / 2 / 14, (canvas[1] - height) / 2 / 14  # in patches

    box = unpad_box(size, canvas[0] // 14, canvas[1] // 14)

    assert width >= 1 and height >= 1
    np.testing.assert_allclose(box, (y, y + height / 14, x, x + width / 14), atol=1.0)


@pytest.mark.parametrize("mode", ["square", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (336, 336), (2000, 500), (5000, 1)])
def test_single_tile_has_one_token_for_each_patch_and_never_a_newline(mode, size):
    assert num_tiles(size, ImageSpec(mode=mode)) == 1
    assert num_image_tokens(size, ImageSpec(mode=mode)) == 576
    assert num_image_tokens(size, ImageSpec(mode=mode, merge="spatial_unpad")) == 576
    assert num_image_tokens(size, ImageSpec(mode=mode, has_class_token=True)) == 577
    assert num_image_tokens(size, ImageSpec(mode=mode, side=224)) == 256


def test_flat_and_spatial_merges_keep_every_patch():
    flat, spatial = (ImageSpec(mode="anyres", grids=ANYRES_GRIDS, merge=merge) for merge in ("flat", "spatial"))
    with_class = ImageSpec(mode="anyres", grids=ANYRES_GRIDS, merge="flat", has_class_token=True)

    assert num_image_tokens((640, 480), flat) == num_image_tokens((640, 480), spatial) == 5 * 576
    assert num_image_tokens((640, 480), with_class) == 5 * 577


def test_class_token_in_a_mosaic_is_refused():
    spec = ImageSpec(mode="anyres", grids=ANYRES_GRIDS, merge="spatial_unpad", has_class_token=True)

    with pytest.raises(ValueError, match="class token"):
        num_image_tokens((640, 480), spec)


def test_first_grid_wins_a_tie_in_the_order_of_the_list():
    assert select_grid((336, 336), [(336, 672), (672, 336)]) == (336, 672)
    assert select_grid((336, 336), [(672, 336), (336, 672)]) == (672, 336)


def test_image_too_thin_for_any_canvas_takes_the_smallest():
    assert select_grid((5000, 1), ANYRES_GRIDS) == (336, 672)
    assert select_grid((5000, 1), [(672, 672), (672, 336)]) == (672, 336)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5)])
@pytest.mark.parametrize("spec", [ANYRES, ImageSpec(mode="pad")])
def test_size_without_pixels_is_refused(size, spec):
    with pytest.raises(ValueError, match=r"has no pixels"):
        num_image_tokens(size, spec)


def test_choosing_from_no_grids_is_refused():
    with pytest.raises(ValueError, match="no grids"):
        select_grid((5, 5), [])
