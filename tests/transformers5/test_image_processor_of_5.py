"""Image processors as transformers 5 saves and reads them: inside processor_config.json, by its Pil classes."""

from __future__ import annotations

import json

import image_processor_cases as cases
import pytest
from transformers import AutoImageProcessor

from paddlemix.checkpoints.layouts.hf_json import preprocessor
from paddlemix.checkpoints.source import read_config
from paddlemix.tensor_files.stored import CheckpointError


@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("name", cases.HONORED)
def test_pixels_equal_those_of_the_class_that_transformers_5_takes(tmp_path, name, is_nested):
    is_next = name.startswith("next")
    folder = cases.write_processor(cases.write_config(tmp_path, is_next), cases.HONORED[name], is_nested)
    cases.check_pixels(folder, read_config(folder).image, cases.SIZES if is_next else cases.SIZES + cases.SMALL)


@pytest.mark.parametrize("name", ["clip", "siglip", "pad", "next"])
@pytest.mark.parametrize("ending", ["", "Pil", "Fast"])
def test_file_saved_by_transformers_5_is_read_under_any_class_name(tmp_path, name, ending):
    is_next = name.startswith("next")
    values = {**cases.HONORED[name], **cases.COLOR, "resample": 2}
    first = cases.write_processor(cases.write_config(tmp_path / "a", is_next), values)
    saved = json.loads(AutoImageProcessor.from_pretrained(first).to_json_string())
    saved["image_processor_type"] += ending
    folder = cases.write_processor(cases.write_config(tmp_path / "b", is_next), saved, is_nested=True)
    cases.check_pixels(folder, read_config(folder).image)


def test_of_two_files_transformers_5_and_we_take_the_nested_one(tmp_path):
    folder = cases.write_processor(cases.write_config(tmp_path), cases.CLIP)
    cases.write_processor(folder, {**cases.PAD, **cases.COLOR}, is_nested=True)
    cases.check_pixels(folder, read_config(folder).image)


@pytest.mark.parametrize("name", ["clip", "siglip", "pad", "next", "size above the crop", "no resize"])
def test_transformers_5_makes_the_same_pixels_with_our_file(tmp_path, name):
    is_next = name.startswith("next")
    source = cases.write_config(tmp_path / "a", is_next)
    cases.write_processor(source, {**cases.HONORED[name], **cases.COLOR, "resample": 2, "rescale_factor": 0.01})
    spec = read_config(source).image
    target = cases.write_processor(cases.write_config(tmp_path / "b", is_next), preprocessor(spec))
    assert read_config(target).image == spec
    cases.check_pixels(target, spec)


def test_a_crop_of_siglips_class_that_transformers_4_ignores_follows_transformers_5(tmp_path):
    values = {**cases.SIGLIP, "size": {"height": 40, "width": 40}, "do_center_crop": True, "crop_size": cases.SIDE}
    folder = cases.write_processor(cases.write_config(tmp_path, tower="siglip_vision_model"), values)
    cases.check_pixels(folder, read_config(folder).image)


def test_an_image_that_transformers_5_leaves_at_another_side_than_the_towers_is_refused(tmp_path):
    folder = cases.write_processor(cases.write_config(tmp_path), {**cases.CLIP, "do_center_crop": False})
    assert cases.their_pixels(folder, cases.noise_image((60, 41))).shape[-2:] == (28, 40)
    with pytest.raises(CheckpointError, match="nothing is cropped"):
        read_config(folder)
