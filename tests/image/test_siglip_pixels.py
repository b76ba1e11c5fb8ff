"""Pixels for SigLIP's towers against the image processors of transformers."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from transformers import LlavaNextImageProcessor, SiglipImageProcessor

from paddlemix.image.preprocess import preprocess
from paddlemix.image.spec import ANYRES_GRIDS, ImageSpec

SIDE = 384
SIZES = [(384, 384), (64, 64), (640, 480), (480, 641), (1000, 300), (300, 1000), (900, 25), (1, 1), (5000, 1)]
HALF = (0.5, 0.5, 0.5)
GRIDS = tuple((width // 336 * SIDE, height // 336 * SIDE) for width, height in ANYRES_GRIDS)
SHARED = {"side": SIDE, "patch_size": 14, "mean": HALF, "std": HALF, "has_crop": False}


def draw_image(size: tuple[int, int]) -> Image.Image:
    """Draw noise over a gradient: sharp edges and smooth parts."""
    width, height = size
    noise = np.random.default_rng(width * 10_007 + height).integers(0, 128, (height, width, 3))
    return Image.fromarray((noise + np.linspace(0, 127, width)[None, :, None]).astype(np.uint8))


def siglip_pixels(image: Image.Image) -> np.ndarray:
    processor = SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    return processor(image, return_tensors="np", input_data_format="channels_last")["pixel_values"]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_square_equals_the_siglip_processor(size):
    tiles = preprocess(draw_image(size), ImageSpec(mode="square", **SHARED))
    assert tiles.pixels.shape == (1, 3, SIDE, SIDE) and tiles.pixels.dtype == np.float32
    assert tiles.num_tokens == 729
    np.testing.assert_allclose(tiles.pixels, siglip_pixels(draw_image(size)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pad_equals_the_siglip_processor_on_a_gray_square(size):
    image = draw_image(size)
    side = max(size)
    gray = np.full((side, side, 3), 127, np.uint8)  # LLaVA's int(0.5 * 255)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    gray[top : top + size[1], left : left + size[0]] = np.asarray(image)
    tiles = preprocess(image, ImageSpec(mode="pad", **SHARED))
    np.testing.assert_allclose(tiles.pixels, siglip_pixels(Image.fromarray(gray)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", SIZES[:6], ids=str)
def test_anyres_equals_the_llava_next_processor_with_siglip_mean_and_side(size):
    reference = LlavaNextImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=HALF,
        image_std=HALF,
        image_grid_pinpoints=[[height, width] for width, height in GRIDS],
    )
    image = draw_image(size)
    tiles = preprocess(image, ImageSpec(mode="anyres", grids=GRIDS, merge="spatial_unpad", **SHARED))
    expected = reference(image, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
    np.testing.assert_allclose(tiles.pixels, expected, rtol=0, atol=1e-5)


def test_a_crop_and_a_squash_show_different_images():
    image = draw_image((640, 480))
    squashed, cropped = (
        preprocess(image, ImageSpec(mode="square", **{**SHARED, "has_crop": has_crop})) for has_crop in (False, True)
    )
    assert np.abs(squashed.pixels - cropped.pixels).mean() > 0.1


def test_side_smaller_than_a_patch_is_refused():
    with pytest.raises(ValueError, match="a tile side of 13 px holds no patch of 14 px"):
        ImageSpec(side=13, patch_size=14)
