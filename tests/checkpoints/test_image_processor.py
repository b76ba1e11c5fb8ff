"""Files of image processors: pixels equal those of AutoImageProcessor, or the file is refused."""

from __future__ import annotations

import json

import image_processor_cases as cases
import pytest

from paddlemix.checkpoints.inspection_facts import describe_image
from paddlemix.checkpoints.layouts.hf_json import preprocessor
from paddlemix.checkpoints.source import read_config
from paddlemix.tensor_files.stored import CheckpointError


@pytest.mark.parametrize("name", cases.HONORED)
def test_pixels_equal_those_of_the_class_that_transformers_takes(tmp_path, name):
    is_next = name.startswith("next")
    folder = cases.write_processor(cases.write_config(tmp_path, is_next), cases.HONORED[name])
    cases.check_pixels(folder, read_config(folder).image, cases.SIZES if is_next else cases.SIZES + cases.SMALL)


@pytest.mark.parametrize(("changes", "message"), cases.REFUSED)
def test_unsupported_setting_is_refused_in_one_line_that_names_it(tmp_path, changes, message):
    folder = cases.write_processor(cases.write_config(tmp_path), cases.changed(cases.CLIP, changes))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_config(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_processor_type": "CLIPImageProcessor"}, "needs the images of LlavaNextImageProcessor"),
        ({"image_grid_pinpoints": [[28, 56]]}, r"states image_grid_pinpoints \[\[28, 56\]\], but config.json states"),
        ({"image_grid_pinpoints": cases.PINPOINTS[::-1]}, "pixels and features would be on different canvases"),
        ({"image_grid_pinpoints": "all"}, "expected a list of pairs"),
        ({"size": {"shortest_edge": 30}}, "makes images of 30x30 px, but the vision tower needs 28x28"),
        ({"crop_size": 30}, "makes images of 30x30 px, but the vision tower needs 28x28"),
        ({"do_resize": False, "resample": "nearest"}, "resample is 'nearest'"),
    ],
)
def test_tiles_that_do_not_fit_the_model_are_refused(tmp_path, changes, message):
    folder = cases.write_processor(cases.write_config(tmp_path, is_next=True), {**cases.NEXT, **changes})
    with pytest.raises(CheckpointError, match=message):
        read_config(folder)


@pytest.mark.parametrize("values", [{}, {"size": {"shortest_edge": 28}}, {"do_normalize": False}, {"crop_size": 28}])
def test_file_without_a_class_overrides_the_settings_of_the_tower(tmp_path, values):
    folder = cases.write_processor(cases.write_config(tmp_path), values)
    spec = read_config(folder).image
    assert (spec.has_crop, spec.resize) == (True, (224,) if "crop_size" in values else None)
    cases.write_processor(folder, {**cases.FIT, **values} if "crop_size" not in values else values)
    cases.check_pixels(folder, spec)


def test_padding_with_a_mean_that_is_not_a_color_is_refused(tmp_path):
    folder = cases.write_processor(cases.write_config(tmp_path), {**cases.PAD, "image_mean": [123.7, 116.3, 103.5]})
    with pytest.raises(ValueError, match="image mode 'pad' fills with the mean as a color"):
        read_config(folder)


@pytest.mark.parametrize("content", ["[]", '{"image_processor": 3}', '{"image_processor": {"do_pad": "yes"}}', "{"])
def test_a_damaged_processor_file_is_named(tmp_path, content):
    folder = cases.write_config(tmp_path)
    (folder / "processor_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"processor_config\.json"):
        read_config(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patch_size": 14}, r"processor_config.json states patch_size 14 \(expected 7 or None\)"),
        ({"vision_feature_select_strategy": "full"}, r"vision_feature_select_strategy 'full' \(expected 'default'"),
        ({"max_image_tiles": 4}, "states max_image_tiles 4, which this version does not know"),
    ],
)
def test_processor_of_another_model_is_refused_by_its_keys(tmp_path, values, message):
    folder = cases.write_processor(cases.write_config(tmp_path), cases.CLIP)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "LlavaProcessor", **values}))
    with pytest.raises(CheckpointError, match=message):
        read_config(folder)


def test_absent_mean_without_a_class_is_that_of_the_models_class(tmp_path):
    folder = cases.write_processor(cases.write_config(tmp_path, tower="siglip_vision_model"), cases.FIT)
    cases.check_pixels(folder, read_config(folder).image)


def test_description_lists_unusual_pixel_settings(tmp_path):
    folder = cases.write_processor(cases.write_config(tmp_path), {**cases.CLIP, "resample": 2, "do_normalize": False})
    assert describe_image(read_config(folder).image)["pixels"] == {"resample": "bilinear", "has_normalize": False}
    cases.write_processor(folder, cases.CLIP)
    assert describe_image(read_config(folder).image)["pixels"] == {}


@pytest.mark.parametrize("name", ["clip", "siglip", "pad", "next", "size above the crop", "no normalization"])
def test_written_file_is_read_back_and_transformers_makes_the_same_pixels(tmp_path, name):
    is_next = name.startswith("next")
    source = cases.write_config(tmp_path / "a", is_next)
    cases.write_processor(source, {**cases.HONORED[name], **cases.COLOR, "resample": 2, "rescale_factor": 0.01})
    spec = read_config(source).image
    target = cases.write_processor(cases.write_config(tmp_path / "b", is_next), preprocessor(spec))
    assert read_config(target).image == spec
    cases.check_pixels(target, spec)
