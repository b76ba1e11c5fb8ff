"""Pixels against the slow image processors of transformers, and against the official LLaVA steps restated here."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessor, LlavaNextImageProcessor

from paddlemix.image.anyres import num_tiles
from paddlemix.image.load import load_image
from paddlemix.image.preprocess import ImageTiles, content_key, preprocess
from paddlemix.image.spec import ANYRES_GRIDS, CLIP_MEAN, CLIP_STD, ImageSpec

PHOTOS = sorted((Path(__file__).parents[1] / "assets" / "photos").glob("*.*g"))
SIZES = [(336, 336), (64, 64), (640, 480), (480, 641), (337, 336), (333, 500), (1000, 300), (300, 1000), (900, 25)]
EXTREME_SIZES = [(1, 1), (2, 1), (1, 1000), (5000, 1), (3, 2000), (20_000, 3)]
SPECS = {
    "square": ImageSpec(mode="square"),
    "pad": ImageSpec(mode="pad"),
    "anyres": ImageSpec(mode="anyres", grids=ANYRES_GRIDS, merge="spatial_unpad"),
}


@pytest.fixture(scope="module")
def clip():
    return CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})


def draw_image(size: tuple[int, int]) -> Image.Image:
    """Draw noise over a gradient: sharp edges and smooth parts."""
    width, height = size
    noise = np.random.default_rng(width * 10_007 + height).integers(0, 128, (height, width, 3))
    gradient = np.linspace(0, 127, width)[None, :, None]
    return Image.fromarray((noise + gradient).astype(np.uint8))


def sources() -> list:
    """Photographs and drawn sizes, as pytest parameters."""
    photos = [pytest.param(path, id=path.name) for path in PHOTOS]
    return photos + [pytest.param(size, id=f"{size[0]}x{size[1]}") for size in SIZES]


def opened(source) -> Image.Image:
    return draw_image(source) if isinstance(source, tuple) else load_image(source)


def clip_pixels(clip, image: Image.Image) -> np.ndarray:
    return clip(image, return_tensors="np", input_data_format="channels_last")["pixel_values"]


def restated_square(image: Image.Image) -> Image.Image:
    """Paste an image onto a square of the mean color, with arrays."""
    array = np.asarray(image)
    height, width, _ = array.shape
    side = max(width, height)
    before_y, before_x = (side - height) // 2, (side - width) // 2
    square = np.empty((side, side, 3), np.uint8)
    square[:] = (122, 116, 104)
    square[before_y : before_y + height, before_x : before_x + width] = array
    return Image.fromarray(square)


def restated_anyres(image: Image.Image, canvas: tuple[int, int]) -> np.ndarray:
    """Make the uint8 tiles [n, 336, 336, 3] for a canvas (width, height) as the official code does, tile by tile."""
    width, height = image.size
    ratio_x, ratio_y = canvas[0] / width, canvas[1] / height
    if ratio_x < ratio_y:
        inner = canvas[0], min(int(np.ceil(height * ratio_x)), canvas[1])
    else:
        inner = min(int(np.ceil(width * ratio_y)), canvas[0]), canvas[1]
    big = np.zeros((canvas[1], canvas[0], 3), np.uint8)
    y, x = (canvas[1] - inner[1]) // 2, (canvas[0] - inner[0]) // 2
    big[y : y + inner[1], x : x + inner[0]] = np.asarray(image.resize(inner))  # Pillow's default filter
    tiles = [np.asarray(image.resize((336, 336)))]
    for top in range(0, canvas[1], 336):
        tiles += [big[top : top + 336, left : left + 336] for left in range(0, canvas[0], 336)]
    return np.stack(tiles)


def normalized(tiles: np.ndarray) -> np.ndarray:
    """Normalize uint8 [n, side, side, 3] in double precision."""
    return ((tiles / 255.0 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("source", sources())
def test_square_equals_the_clip_processor(source, clip):
    image = opened(source)

    tiles = preprocess(image, SPECS["square"])

    assert tiles.pixels.shape == (1, 3, 336, 336) and tiles.pixels.dtype == np.float32
    if max(image.size) <= 16 * min(image.size):  # longer ones are trimmed: see below
        np.testing.assert_allclose(tiles.pixels, clip_pixels(clip, image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("source", sources())
def test_pad_equals_the_clip_processor_on_a_square_of_the_mean_color(source, clip):
    image = opened(source)

    tiles = preprocess(image, SPECS["pad"])

    np.testing.assert_allclose(tiles.pixels, clip_pixels(clip, restated_square(image)), rtol=0, atol=1e-5)
    assert tiles.size == image.size and tiles.num_tokens == 576


@pytest.mark.parametrize("source", sources())
def test_anyres_equals_the_llava_next_processor_with_the_canvas_of_the_official_order(source):
    image = opened(source)
    # transformers reads grids as (height, width). Given so, in our order, it visits the same canvases as we do.
    reference = LlavaNextImageProcessor(
        size={"shortest_edge": 336},
        crop_size={"height": 336, "width": 336},
        image_grid_pinpoints=[[height, width] for width, height in ANYRES_GRIDS],
    )

    tiles = preprocess(image, SPECS["anyres"])

    expected = reference(image, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
    np.testing.assert_allclose(tiles.pixels, expected, rtol=0, atol=1e-5)
    assert tiles.size == image.size


@pytest.mark.parametrize(
    ("size", "canvas"),
    [((336, 336), (336, 672)), ((100, 100), (336, 672)), ((640, 480), (672, 672)), ((2000, 500), (1008, 336))],
)
def test_anyres_equals_the_official_steps(size, canvas):
    image = draw_image(size)

    tiles = preprocess(image, SPECS["anyres"])

    np.testing.assert_allclose(tiles.pixels, normalized(restated_anyres(image, canvas)), rtol=0, atol=1e-5)


def test_small_square_gets_an_upright_canvas_where_transformers_takes_a_wide_one():
    image = draw_image((336, 336))
    # The released grids list reads the same in (width, height) and in (height, width), so that a tie ends differently.
    stock = LlavaNextImageProcessor(
        size={"shortest_edge": 336},
        crop_size={"height": 336, "width": 336},
        image_grid_pinpoints=[list(grid) for grid in ANYRES_GRIDS],
    )

    ours = preprocess(image, SPECS["anyres"]).pixels

    theirs = stock(image, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
    assert ours.shape == theirs.shape == (3, 3, 336, 336)
    np.testing.assert_allclose(theirs[1:], normalized(restated_anyres(image, (672, 336)))[1:], rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours[1:], normalized(restated_anyres(image, (336, 672)))[1:], rtol=0, atol=1e-5)
    assert not np.allclose(ours[1], theirs[1])


@pytest.mark.parametrize("mode", SPECS)
@pytest.mark.parametrize("size", EXTREME_SIZES)
def test_extreme_sizes_give_whole_tiles(size, mode):
    image = Image.new("RGB", size, (255, 0, 0))

    tiles = preprocess(image, SPECS[mode])

    assert tiles.pixels.shape == (num_tiles(size, SPECS[mode]), 3, 336, 336)
    red = normalized(np.array([[[[255, 0, 0]]]], np.uint8))[0, :, 0, 0]
    if mode == "pad":  # little is left of a thin line
        assert np.isfinite(tiles.pixels).all()
    else:
        np.testing.assert_allclose(tiles.pixels[0, :, 168, 168], red, atol=1e-5)


def test_center_of_a_trimmed_strip_is_the_center_of_the_whole_one(clip):
    image = Image.fromarray(np.linspace(0, 255, 2000).astype(np.uint8)[None, :, None].repeat(40, 0).repeat(3, 2))

    tiles = preprocess(image, SPECS["square"])

    np.testing.assert_allclose(tiles.pixels, clip_pixels(clip, image), rtol=0, atol=2 / 255 / 0.26)


def test_image_too_long_to_pad_exactly_is_padded_after_a_reduction():
    image = Image.new("RGB", (16_384, 4096), (255, 0, 0))

    pixels = preprocess(image, SPECS["pad"]).pixels[0]

    mean, red = normalized(np.array([[[[122, 116, 104]]], [[[255, 0, 0]]]], np.uint8))[:, :, 0, 0]
    np.testing.assert_allclose(pixels[:, :124, :], np.broadcast_to(mean[:, None, None], (3, 124, 336)), atol=1e-5)
    np.testing.assert_allclose(pixels[:, 130:206, :], np.broadcast_to(red[:, None, None], (3, 76, 336)), atol=1e-5)


def test_other_tower_side_and_mean_are_taken_from_the_spec():
    spec = ImageSpec(side=28, patch_size=14, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), mode="pad")

    tiles = preprocess(Image.new("RGB", (56, 28), (255, 255, 255)), spec)

    assert tiles.pixels.shape == (1, 3, 28, 28) and tiles.num_tokens == 4
    np.testing.assert_allclose(tiles.pixels[0, :, 14, 14], 1.0, atol=1e-6)
    np.testing.assert_allclose(tiles.pixels[0, :, 0, 0], 127 / 127.5 - 1, atol=1e-6)


def test_image_in_another_mode_is_refused():
    with pytest.raises(ValueError, match="found RGBA: read it with load_image"):
        preprocess(Image.new("RGBA", (5, 5)), SPECS["pad"])


def test_content_key_depends_on_pixels_and_size():
    tiles = preprocess(draw_image((64, 64)), SPECS["pad"])
    same = preprocess(draw_image((64, 64)), SPECS["pad"])
    other_pixels = ImageTiles(tiles.pixels + np.float32(1e-3), tiles.size, tiles.num_tokens)
    other_size = ImageTiles(tiles.pixels, (64, 65), tiles.num_tokens)

    assert content_key(tiles) == content_key(same)
    assert len({content_key(tiles), content_key(other_pixels), content_key(other_size)}) == 3
    assert content_key(ImageTiles(tiles.pixels[:, :, ::-1], tiles.size, 576)) != content_key(tiles)
