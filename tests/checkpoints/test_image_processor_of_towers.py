"""The image processor's file of a tower and of other layouts, and the settings that conversion keeps."""

from __future__ import annotations

import shutil

import image_processor_cases as cases
import pytest
import tiny_folder

from paddlemix.checkpoints.convert import convert
from paddlemix.checkpoints.layouts import official, paddlemix
from paddlemix.checkpoints.layouts.folder import Folder
from paddlemix.checkpoints.layouts.tower import read_pixels
from paddlemix.checkpoints.source import read_config
from paddlemix.image.spec import CLIP_MEAN, CLIP_STD, ImageSpec
from paddlemix.models.config import VisionConfig
from paddlemix.models.vision.families import SIGLIP
from paddlemix.output import write_json
from paddlemix.tensor_files.stored import CheckpointError, read_json

SHAPE = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
VISION = VisionConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=28, patch_size=7
)
SIGLIP_VISION = VisionConfig(
    family="siglip", **SIGLIP.options, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
    image_size=28, patch_size=7,
)  # fmt: skip
CHANGES = {
    "resample": "bilinear",
    "resize": [37],
    "rescale_factor": 0.01,
    "has_normalize": False,
    "mean": [0.1, 0.2, 0.3],
}


@pytest.mark.parametrize(
    "values",
    [
        {**cases.CLIP, "resample": 2, "rescale_factor": 0.01},
        {**cases.SIGLIP, "do_normalize": False},
        {**cases.CLIP, "size": {"height": 30, "width": 45}},
        {**cases.NEXT, **cases.COLOR},
    ],
)
def test_tower_is_read_with_all_that_its_file_states(tmp_path, values):
    folder, nested = tmp_path / "a", tmp_path / "b"
    for place in (folder, nested):
        place.mkdir()
    cases.write_processor(folder, values)
    spec = ImageSpec(side=28, patch_size=7, mode="square", **read_pixels(VISION, None, Folder(folder)))
    if values["image_processor_type"] != "LlavaNextImageProcessor":
        (folder / "config.json").write_text('{"model_type": "clip"}')
        cases.check_pixels(folder, spec)
    else:  # its mean and std, for a model with its own image settings
        assert (list(spec.mean), list(spec.std)) == (values["image_mean"], values["image_std"])
    assert read_pixels(VISION, Folder(cases.write_processor(nested, values, is_nested=True))) == spec.pixels


def test_the_first_folder_with_a_file_counts_and_without_one_the_family(tmp_path):
    first, second, empty = (tmp_path / name for name in ("first", "second", "empty"))
    for place in (first, second, empty):
        place.mkdir()
    cases.write_processor(first, {**cases.CLIP, "image_mean": 0.25}, is_nested=True)
    cases.write_processor(second, cases.CLIP)
    assert read_pixels(VISION, *map(Folder, (empty, first, second)))["mean"] == (0.25,) * 3
    assert read_pixels(VISION, Folder(second), Folder(first))["mean"] == CLIP_MEAN
    assert read_pixels(SIGLIP_VISION, Folder(empty)) == {"mean": (0.5,) * 3, "std": (0.5,) * 3, "has_crop": False}


def test_absent_keys_of_a_file_without_a_class_are_those_of_the_towers_family(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"resample": 2}')
    assert {"mean": CLIP_MEAN, "std": CLIP_STD, "has_crop": True}.items() <= read_pixels(
        VISION, Folder(tmp_path)
    ).items()
    siglip = read_pixels(SIGLIP_VISION, Folder(tmp_path))
    assert (siglip["mean"], siglip["has_crop"], siglip["resample"]) == ((0.5,) * 3, False, "bilinear")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_processor_type": "ViTImageProcessor"}, "ViTImageProcessor"),
        ({"crop_size": 24}, "24x24 px, but the vision tower needs 28x28 px"),
        ({"image_processor_type": "LlavaImageProcessor", "do_pad": True}, "a tower does not pad"),
    ],
)
def test_unsupported_image_processor_of_a_tower_is_refused(tmp_path, changes, message):
    cases.write_processor(tmp_path, {**cases.CLIP, **changes}, is_nested=True)
    with pytest.raises(CheckpointError, match=message):
        read_pixels(VISION, Folder(tmp_path))


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """The tiny model of 1.5 with other pixels in every respect."""
    folder = shutil.copytree(tiny_folder.folder("pad"), tmp_path_factory.mktemp("changed") / "ours")
    values = read_json(folder / "config.json")
    write_json(folder / "config.json", values | {"image": values["image"] | CHANGES})
    return folder


@pytest.mark.parametrize("layout", ["hf", "official", "xtuner", "paddlemix"])
def test_every_layout_keeps_the_image_settings(tmp_path, changed, layout):
    convert(changed, tmp_path / "there", layout)
    assert read_config(tmp_path / "there").image == read_config(changed).image


@pytest.mark.parametrize("layout", ["official", "paddlemix"])
def test_layouts_whose_code_makes_tiles_bicubic_hold_no_other_filter(tmp_path, layout):
    folder = shutil.copytree(tiny_folder.folder("anyres"), tmp_path / "ours")
    values = read_json(folder / "config.json")
    write_json(folder / "config.json", values | {"image": values["image"] | {"resample": "bilinear"}})
    with pytest.raises(CheckpointError, match="cannot hold anyres tiles with resample 'bilinear'"):
        convert(folder, tmp_path / "there", layout)


def flat_config(**changes) -> dict:
    """Return LLaVA's config.json with the tower's shape."""
    return {
        "architectures": ["LlavaLlamaForCausalLM"],
        "hidden_size": 48,
        "num_attention_heads": 4,
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "vision_config": {key: getattr(VISION, key) for key in SHAPE},
        **changes,
    }


@pytest.mark.parametrize(("mode", "resample"), [("anyres", "bicubic"), ("pad", "bilinear")])
def test_the_filter_of_llavas_own_code_is_the_processors_for_whole_images_only(tmp_path, mode, resample):
    """`process_anyres_image` scales with Pillow's default; `process_images` pads and leaves the rest to it."""
    raw = flat_config(image_aspect_ratio=mode, image_grid_pinpoints=cases.PINPOINTS)
    (tmp_path / "processor" / "train").mkdir(parents=True)
    for place in (tmp_path, tmp_path / "processor" / "train"):
        cases.write_processor(place, {**cases.CLIP, "resample": 2})
    assert official.read_config(Folder(tmp_path), raw).image.resample == resample
    assert paddlemix.read_config(Folder(tmp_path), raw).image.resample == resample


def test_paddlemix_reads_mode_and_grids_from_its_processor_and_refuses_unsupported_ones(tmp_path):
    place = tmp_path / "processor" / "eval"
    place.mkdir(parents=True)
    values = {**cases.CLIP, "image_aspect_ratio": "anyres", "image_grid_pinpoints": cases.PINPOINTS}
    cases.write_processor(place, values)
    image = paddlemix.read_config(Folder(tmp_path), flat_config()).image
    assert (image.mode, [list(grid) for grid in image.grids]) == ("anyres", cases.PINPOINTS)
    cases.write_processor(place, {**values, "image_std": [0, 0, 0]})
    with pytest.raises(CheckpointError, match="image_std is"):
        paddlemix.read_config(Folder(tmp_path), flat_config())
