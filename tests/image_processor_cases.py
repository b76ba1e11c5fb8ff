"""Image processor files that are supported or refused, and the pixels that transformers 4 and 5 compute with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import AutoImageProcessor

from paddlemix.image.preprocess import preprocess
from paddlemix.image.spec import ImageSpec

SIDE = 28
SIZES = ((60, 41), (33, 40), (200, 30))  # (width, height)
# Several canvases of 1.6 fit these equally well, and LLaVA's code chooses another one than transformers.
SMALL = ((28, 28), (19, 13))
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
FIT = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
CLIP = {"image_processor_type": "CLIPImageProcessor", **FIT}
PAD = {"image_processor_type": "LlavaImageProcessor", "do_pad": True, **FIT}
NEXT = {"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": PINPOINTS, **FIT}
SIGLIP = {"image_processor_type": "SiglipImageProcessor", "size": {"height": SIDE, "width": SIDE}}
COLOR = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}

# Supported files: both versions compute the same. Names that begin with "next" are for 1.6.
HONORED = {
    "clip": CLIP,
    "siglip": SIGLIP,
    "pad": PAD,
    "next": NEXT,
    "no class": FIT,
    "pad, no class": {**FIT, "do_pad": True},
    "next, no class": {**FIT, "image_grid_pinpoints": PINPOINTS},
    "old name": {**FIT, "feature_extractor_type": "CLIPFeatureExtractor"},
    "both names": {**SIGLIP, "feature_extractor_type": "CLIPFeatureExtractor"},
    "fast": {**PAD, "image_processor_type": "LlavaImageProcessorFast", "return_tensors": None, "device": None},
    "pad is false": {**PAD, "do_pad": False},
    "pad is null": {**PAD, "do_pad": None},
    "pad of a batch, in CLIP's class": {**CLIP, "do_pad": True},
    "pad with mean and std": {**PAD, **COLOR},
    "pad without a crop": {**PAD, "do_center_crop": False},
    "pad to a larger size": {**PAD, "size": {"shortest_edge": 40}},
    "pad to a smaller size": {**PAD, "size": {"height": 20, "width": 20}},
    "pad without resize": {**PAD, "do_resize": False},
    "pad without normalization": {**PAD, "do_normalize": False, **COLOR},
    "size above the crop": {**CLIP, "size": {"shortest_edge": 37}},
    "size below the crop": {**CLIP, "size": {"shortest_edge": 19}},
    "size squashes": {**CLIP, "size": {"height": 28, "width": 28}},
    "size squashes above the crop": {**CLIP, "size": {"height": 30, "width": 45}},
    "size squashes on one side": {**CLIP, "size": {"height": 15, "width": 45}},
    "size is a number": {**CLIP, "size": 31, "crop_size": 28},
    "size is a list": {**CLIP, "size": [33, 40], "crop_size": [28, 28]},
    "size is not stated": {key: value for key, value in CLIP.items() if key != "size"},
    "no resize": {**CLIP, "do_resize": False},
    "no resize, no size": {**CLIP, "do_resize": False, "size": {"shortest_edge": 5}, "resample": None},
    "no crop": {**CLIP, "do_center_crop": False, "size": {"height": 28, "width": 28}},
    "null crop": {**CLIP, "do_center_crop": None, "size": {"height": 28, "width": 28}},
    "no normalization": {**CLIP, "do_normalize": False},
    "no factor": {**CLIP, "do_rescale": False},
    "no factor, no normalization": {**CLIP, "do_rescale": False, "do_normalize": False},
    "another factor": {**CLIP, "rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": 1.0},
    "values to 255": {
        **CLIP,
        "do_rescale": False,
        "image_mean": [122.8, 116.7, 104.1],
        "image_std": [68.5, 66.6, 70.3],
    },
    "numbers instead of lists": {**CLIP, "image_mean": 0.5, "image_std": 0.25},
    "mean only": {**SIGLIP, "image_mean": [0.1, 0.2, 0.3]},
    "array formats": {**CLIP, "data_format": "channels_last", "input_data_format": "channels_first"},
    "null crop size that is not used": {**SIGLIP, "crop_size": None, "do_center_crop": None, "pad_size": None},
    "no conversion": {**CLIP, "do_convert_rgb": False},
    "next, as released": {**NEXT, "aspect_ratio_setting": "anyres", "processor_class": "LlavaNextProcessor"},
    "next, flags that change nothing": {**NEXT, "do_center_crop": False, "do_resize": False},
    "next, size squashes": {**NEXT, "size": {"height": 28, "width": 28}, **COLOR},
    "next, no normalization": {**NEXT, "do_normalize": False, "rescale_factor": 0.01},
    **{f"filter {number}": {**CLIP, "resample": number} for number in range(6)},
    **{f"pad, filter {number}": {**PAD, "resample": number} for number in (0, 1, 2)},
    **{f"next, filter {number}": {**NEXT, "resample": number} for number in (0, 1, 2)},
    "siglip, filter": {**SIGLIP, "resample": 2},
}
ABSENT = "absent"  # as a value: the key is removed
# (changes to CLIP's file, part of the error message)
REFUSED = [
    ({"image_processor_type": "ViTImageProcessor"}, "image_processor_type 'ViTImageProcessor'"),
    ({"image_processor_type": "LlavaOnevisionImageProcessor"}, "LlavaOnevisionImageProcessor"),
    ({"image_processor_type": "Siglip2ImageProcessor"}, "Siglip2ImageProcessor"),
    ({"image_processor_type": "Qwen2VLImageProcessorFast"}, "Qwen2VLImageProcessorFast"),
    ({"image_processor_type": None, "feature_extractor_type": "DinoFeatureExtractor"}, "feature_extractor_type 'Dino"),
    ({"image_processor_type": ["CLIPImageProcessor"]}, "image_processor_type"),
    ({"image_processor_type": "LlavaNextImageProcessor"}, "needs the images of LlavaImageProcessor"),
    ({"resample": "bicubic"}, "resample is 'bicubic', expected PIL's number"),
    ({"resample": 6}, "resample is 6"),
    ({"resample": True}, "resample is True"),
    ({"resample": None}, "resample is None"),
    ({"do_resize": "no"}, "do_resize is 'no', expected true or false"),
    ({"do_normalize": 0}, "do_normalize is 0"),
    ({"rescale_factor": 0}, "rescale_factor is 0"),
    ({"rescale_factor": "1/255"}, "rescale_factor is '1/255'"),
    ({"rescale_factor": float("nan")}, "rescale_factor is nan"),
    ({"image_std": [0, 0, 0]}, r"image_std is \[0, 0, 0\], expected one or three numbers"),
    ({"image_std": [0.5, -0.5, 0.5]}, "image_std"),
    ({"image_std": None}, "image_std is None"),
    ({"image_mean": [0.5, 0.5]}, r"image_mean is \[0.5, 0.5\]"),
    ({"image_mean": [0.5, float("inf"), 0.5]}, "image_mean"),
    ({"image_mean": "0.5"}, "image_mean"),
    ({"image_mean": [True, 0.5, 0.5]}, "image_mean"),
    ({"crop_size": {"height": 24, "width": 24}}, "makes images of 24x24 px, but the vision tower needs 28x28 px"),
    ({"crop_size": {"height": 28, "width": 30}}, "makes images of 30x28 px, but the vision tower needs 28x28 px"),
    ({"crop_size": 224}, "crop_size is 224, which makes images of 224x224 px, but the vision tower needs 28x28 px"),
    ({"crop_size": "28"}, "crop_size is '28', expected height and width"),
    ({"crop_size": {"shortest_edge": 28}}, "crop_size is {'shortest_edge': 28}, expected height and width"),
    ({"size": {"longest_edge": 28}}, "size is {'longest_edge': 28}, expected shortest_edge, or height and width"),
    ({"size": {"shortest_edge": 28, "longest_edge": 35}}, "size is"),
    ({"size": {"height": 28}}, "size is"),
    ({"size": [28]}, "size is"),
    ({"size": 0}, "size is 0"),
    ({"size": -3}, "size is -3"),
    ({"size": 28.5}, "size is 28.5"),
    ({"size": {"shortest_edge": True}}, "size is"),
    ({"size": 28, "default_to_square": True}, "default_to_square"),
    ({"do_center_crop": False}, "size keeps the shape of the image and nothing is cropped"),
    ({"do_center_crop": False, "do_resize": False}, "do_resize is false and nothing is cropped"),
    ({"do_center_crop": False, "size": {"height": 24, "width": 24}}, "24x24 px, but the vision tower needs 28x28 px"),
    ({"use_square_size": True}, "use_square_size True, which this version does not know"),
    ({"do_pad": True, "pad_size": {"height": 30, "width": 30}}, "pad_size"),
    ({"size_divisor": 32}, "size_divisor 32"),
    ({"size": None}, "size is None, expected shortest_edge"),
    ({"crop_size": None}, "crop_size is None, expected height and width"),
    ({"crop_size": ABSENT}, "crop_size is 224 by default, which makes images of 224x224 px"),
    ({"aspect_ratio_setting": "pad"}, "aspect_ratio_setting 'pad'"),
    ({"image_aspect_ratio": "pad"}, "image_aspect_ratio 'pad', which this version does not know"),
    ({"auto_map": {"AutoImageProcessor": "a.B"}}, "auto_map"),
    ({"do_thumbnail": True}, "do_thumbnail True"),
]


def noise_image(size: tuple[int, int]) -> Image.Image:
    """Return an image of noise; size is (width, height)."""
    width, height = size
    noise = np.random.default_rng(width * 997 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def write_config(folder: Path, is_next: bool = False, tower: str = "clip_vision_model", pinpoints=None) -> Path:
    """Write the config.json of a tiny llava-hf model without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    values = {
        "architectures": ["LlavaNextForConditionalGeneration" if is_next else "LlavaForConditionalGeneration"],
        "model_type": "llava_next" if is_next else "llava",
        "text_config": {"model_type": "llama", "hidden_size": 48, "num_attention_heads": 4},
        "vision_config": {**vision, "model_type": tower, "image_size": SIDE, "patch_size": 7},
        "vision_feature_select_strategy": "default" if tower.startswith("clip") else "full",
    }
    values |= {"image_grid_pinpoints": pinpoints or PINPOINTS} if is_next else {}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def write_processor(folder: Path, values: dict, is_nested: bool = False) -> Path:
    """Write preprocessor_config.json, or the nested object that transformers 5 writes instead."""
    if is_nested:
        content = {"image_processor": values, "processor_class": "LlavaProcessor"}
        (folder / "processor_config.json").write_text(json.dumps(content))
    else:
        (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return folder


def their_pixels(folder: Path, image: Image.Image) -> np.ndarray:
    """Return the pixels [tiles, 3, side, side] of the class that transformers uses for the folder."""
    found = np.asarray(AutoImageProcessor.from_pretrained(folder)(image, return_tensors="np")["pixel_values"])
    return found.reshape(-1, *found.shape[-3:])


def check_pixels(folder: Path, spec: ImageSpec, sizes=SIZES) -> None:
    """Compare our pixels with theirs, relative to the largest value: without the factor 1/255 it is in the hundreds."""
    for size in sizes:
        theirs = their_pixels(folder, noise_image(size))
        ours = preprocess(noise_image(size), spec).pixels
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1, np.abs(theirs).max()))


def changed(values: dict, changes: dict) -> dict:
    """Return a file's values with some changed; ABSENT removes a key."""
    return {key: value for key, value in {**values, **changes}.items() if value is not ABSENT}
