"""Values of an image spec, and images of other filters, sizes and factors against PIL and arithmetic by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from paddlemix.image.preprocess import preprocess, restore_values
from paddlemix.image.spec import RESAMPLES, ImageSpec

SMALL = {"side": 28, "patch_size": 7, "mode": "square"}


def draw_image(size: tuple[int, int]) -> Image.Image:
    width, height = size
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "changes",
    [
        {"std": [0, 0, 0]},
        {"std": "x"},
        {"std": [0.2, 0.2]},
        {"mean": [float("nan")] * 3},
        {"mean": None},
        {"side": "28"},
        {"side": 0},
        {"side": 10**12},
        {"patch_size": 7.0},
        {"patch_size": True},
        {"grids": 5},
        {"grids": [[28]]},
        {"has_crop": "yes"},
        {"has_class_token": 1},
        {"resample": 3},
        {"resample": "cubic"},
        {"resize": 28},
        {"resize": [28, 28, 28]},
        {"resize": [0]},
        {"rescale_factor": 0},
        {"rescale_factor": float("inf")},
        {"has_normalize": None},
    ],
    ids=str,
)
def test_a_value_of_another_kind_is_reported_in_one_line(changes):
    (name,) = changes
    with pytest.raises(ValueError, match=rf"^image spec: {name} is .*, expected ") as caught:
        ImageSpec(**{**SMALL, **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resize": [30], "has_crop": False}, "needs a crop to 28 px after it"),
        ({"resize": [30], "mode": "anyres", "grids": [[28, 28]]}, "another mode than 'anyres'"),
        ({"mode": "pad", "mean": [2, 0, 0]}, "fills with the mean as a color"),
    ],
)
def test_values_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ImageSpec(**{**SMALL, **changes})


def test_a_spec_of_an_older_folder_keeps_its_meaning():
    older = ImageSpec(**SMALL)
    assert (older.resample, older.resize, older.rescale_factor, older.has_normalize) == ("bicubic", None, 1 / 255, True)


@pytest.mark.parametrize("number", range(6))
def test_the_filters_are_those_of_pil_by_their_numbers(number):
    image = draw_image((50, 28))
    spec = ImageSpec(**SMALL, has_crop=False, resample=RESAMPLES[number], rescale_factor=1, has_normalize=False)
    expected = np.asarray(image.resize((28, 28), Image.Resampling(number)))
    assert Image.Resampling(number).name.lower() == RESAMPLES[number]
    np.testing.assert_array_equal(preprocess(image, spec).pixels[0].transpose(1, 2, 0), expected)


def test_an_image_that_is_not_resized_is_cropped_in_the_middle_and_padded_with_black():
    image = draw_image((31, 21))
    spec = ImageSpec(**SMALL, resize=(), rescale_factor=1, has_normalize=False)
    found = preprocess(image, spec).pixels[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(found[4:25], np.asarray(image)[:, 1:29])  # (31 - 28) // 2; ceil((28 - 21) / 2)
    assert not found[:4].any() and not found[25:].any()


def test_a_long_strip_fills_the_crop_even_if_its_short_edge_is_resized_below_the_crop():
    image = Image.new("RGB", (3000, 40), (255, 255, 255))
    spec = ImageSpec(**SMALL, resize=(2,), rescale_factor=1, has_normalize=False)
    found = preprocess(image, spec).pixels[0, 0]
    assert (found[13:15] == 255).all() and not found[:13].any() and not found[15:].any()


@pytest.mark.parametrize(
    "changes", [{}, {"rescale_factor": 1}, {"has_normalize": False, "rescale_factor": 0.01}], ids=str
)
def test_restored_values_are_those_of_the_image(changes):
    spec = ImageSpec(**SMALL, **changes)
    image = draw_image((28, 28))
    restored = restore_values(preprocess(image, spec).pixels, spec)
    np.testing.assert_array_equal(restored[0].transpose(1, 2, 0), np.asarray(image))


def test_pixels_of_a_spec_are_the_fields_that_another_spec_takes():
    spec = ImageSpec(**SMALL, mean=(0.1, 0.2, 0.3), resize=(40,), resample="box", rescale_factor=0.5)
    assert ImageSpec(**SMALL, **spec.pixels) == spec
    padded = dataclasses.replace(spec, mode="pad")
    assert padded.as_square() == spec
