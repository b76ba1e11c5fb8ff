"""What an image processor's file of transformers states, as fields of ImageSpec.

Every layout reads it here: `preprocessor_config.json`, or the object "image_processor" in `processor_config.json`,
which transformers 5 writes. What each class does with a key: `image_processing_*.py` of transformers 4.55 and 5.24.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...foreign_json import (
    FLAG,
    KeyRules,
    Kind,
    check_keys,
    check_values,
    list_of,
    number,
    shown,
    whole_number,
)
from ...image.spec import CLIP_MEAN, CLIP_STD, RESAMPLES, RESCALE
from ..files import CheckpointError, read_json

FILE, PROCESSOR_FILE, NESTED = "preprocessor_config.json", "processor_config.json", "image_processor"
DEFAULT_EDGE = 224  # px of `size` in every class
# transformers 5 and the torchvision classes of 4 save these names with an ending, older ones save FeatureExtractor.
CLASS_NAME = re.compile(r"(CLIP|Siglip|LlavaNext|Llava)(?:ImageProcessor(?:Fast|Pil)?|FeatureExtractor)")


@dataclass(frozen=True)
class ProcessorClass:
    """An image processor of transformers and the values that an absent key has.

    has_crop: do_center_crop. can_pad: do_pad puts one image on a square of the mean colour; in the other classes it
    makes the images of a batch alike, which changes no pixel of any. has_tiles: it lays an image out on a canvas.
    """

    name: str
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    has_crop: bool = True
    can_pad: bool = False
    has_tiles: bool = False


HALF = (0.5, 0.5, 0.5)
CLASSES = {
    "CLIP": ProcessorClass("CLIPImageProcessor"),
    "Siglip": ProcessorClass("SiglipImageProcessor", HALF, HALF, has_crop=False),
    "Llava": ProcessorClass("LlavaImageProcessor", can_pad=True),
    "LlavaNext": ProcessorClass("LlavaNextImageProcessor", has_tiles=True),
}
BY_NAME = {one.name: one for one in CLASSES.values()}
FLAGS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_pad")
RULES = KeyRules(
    used=frozenset(
        {*FLAGS, "image_processor_type", "feature_extractor_type", "size", "crop_size", "default_to_square"}
        | {"resample", "rescale_factor", "image_mean", "image_std"}
    ),
    # NOTE: do_convert_rgb false leaves an RGB image as it is, and the classes fail on any other.
    inert=frozenset(
        {"processor_class", "do_convert_rgb", "return_tensors", "device", "disable_grouping", "image_grid_pinpoints"}
        | {"image_aspect_ratio", "_valid_processor_keys", "_valid_kwargs_names"}
    ),
    held={"data_format": ("channels_first", None)},
)
# What else LlavaProcessor and LlavaNextProcessor save. How many tokens an image has is the tower's to say.
PROCESSOR_RULES = KeyRules(
    used=frozenset({NESTED}),
    inert=frozenset({"processor_class", "image_token", "num_additional_image_tokens", "chat_template"}),
)
SIZE_EDGE = whole_number(1, 1 << 12)
PAIR = list_of(SIZE_EDGE, 2, 2)
# Key -> (the flag that makes it count, what it may be). resample: PIL's number; transformers 4 fails on a filter's
# name, and 5 takes any name for bilinear.
NUMBERS = {
    "resample": ("do_resize", Kind(whole_number(0, 5).is_good, "PIL's number of a filter, 0 to 5 (3 is bicubic)")),
    "rescale_factor": ("do_rescale", RESCALE),
    "image_mean": ("do_normalize", number(-1e4, 1e4)),
    "image_std": ("do_normalize", number(0, 1e4, is_open=True)),
}


@dataclass(frozen=True)
class Found:
    """An image processor's file: where it stands, for messages, and what it states."""

    where: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class ImageProcessor:
    """What a file says. pixels: fields of ImageSpec (`PIXEL_FIELDS`). is_padded: each image on a square first.

    pinpoints: image_grid_pinpoints as stated, None where the class has no tiles or the file does not say.
    """

    kind: ProcessorClass
    pixels: dict[str, Any]
    is_padded: bool
    pinpoints: Any = None


def find_processor(folder: Path) -> Found | None:
    """Return what describes a folder's image processor, None if nothing does.

    As in transformers 5, the object in processor_config.json comes before preprocessor_config.json.
    """
    path = folder / PROCESSOR_FILE
    nested = read_json(path).get(NESTED) if path.is_file() else None
    if isinstance(nested, dict):
        return Found(f"{path}, {NESTED}", nested)
    if nested is not None:
        raise CheckpointError(f"{path}: {NESTED} is {shown(nested)}, expected an object")
    path = folder / FILE
    return Found(str(path), read_json(path)) if path.is_file() else None


def check_processor(folder: Path, patch_size: int, strategy: str) -> None:
    """Raise CheckpointError where processor_config.json states what is not known, or another tower than the model's.

    strategy: vision_feature_select_strategy. With other values transformers' processor makes more or fewer image tokens
    than its model gives features, and fails.
    """
    path = folder / PROCESSOR_FILE
    if path.is_file():
        held = {"patch_size": (patch_size, None), "vision_feature_select_strategy": (strategy, None)}
        check_keys(read_json(path), PROCESSOR_RULES | KeyRules(held=held), str(path), CheckpointError)


def read_processor(found: Found, default: str, side: int) -> ImageProcessor:
    """Read an image processor's file for a tower that takes side x side px.

    default: the class that AutoImageProcessor takes for the model where the file names none. Raises CheckpointError
    for another class, for what cannot be honoured, for bad values, and for images that do not end at the tower's side.
    """
    kind, where, values = _kind(found, default), found.where, found.values
    check_keys(values, RULES, where, CheckpointError)
    check_values(values, dict.fromkeys(FLAGS, FLAG.or_null()), where, CheckpointError)
    defaults = {"do_center_crop": kind.has_crop, "do_pad": False}
    flags = {name: bool(values.get(name, defaults.get(name, True))) for name in FLAGS}  # null is false in transformers
    flags["do_pad"] &= kind.can_pad
    flags["do_resize"] |= kind.has_tiles  # an image is always scaled to its canvas
    _check_numbers(values, flags, where)
    pixels = {
        "mean": _channels(values.get("image_mean"), kind.mean),
        "std": _channels(values.get("image_std"), kind.std),
        "resample": RESAMPLES[values["resample"]] if flags["do_resize"] and "resample" in values else "bicubic",
        "rescale_factor": values.get("rescale_factor", 1 / 255) if flags["do_rescale"] else 1.0,
        "has_normalize": flags["do_normalize"],
        **(_tiled(found, flags, side) if kind.has_tiles else _cropped(found, kind, flags, side)),
    }
    return ImageProcessor(kind, pixels, flags["do_pad"], values.get("image_grid_pinpoints") if kind.has_tiles else None)


def in_llavas_code(pixels: dict[str, Any], mode: str) -> dict[str, Any]:
    """Return the pixels with the filter that LLaVA's own code makes tiles with, whatever the processor's file says.

    `process_anyres_image` in `llava/mm_utils.py` scales with Pillow's default; the processor then has nothing to scale.
    """
    return {**pixels, "resample": "bicubic"} if mode == "anyres" else pixels


def _kind(found: Found, default: str) -> ProcessorClass:
    """Return the class that the file names."""
    key = next((one for one in ("image_processor_type", "feature_extractor_type") if found.values.get(one)), None)
    if key is None:
        return BY_NAME[default]
    name = found.values[key]
    match = CLASS_NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise CheckpointError(
            f"{found.where} states {key} {shown(name)}, which is not supported here: expected one of "
            f"{', '.join(BY_NAME)} (also with Fast or Pil behind it)"
        )
    return CLASSES[match.group(1)]


def _check_numbers(values: Mapping[str, Any], flags: Mapping[str, bool], where: str) -> None:
    """Check what counts; a key whose flag is off may be null."""
    kinds = {}
    for key, (flag, kind) in NUMBERS.items():
        if key.startswith("image_"):
            channels = list_of(kind, 3, 3)
            kind = Kind(_either(kind, channels), f"one or three numbers, each {kind.expected}")
        is_needed = flags[flag] or (key == "image_mean" and flags["do_pad"])
        kinds[key] = kind if is_needed else kind.or_null()
    check_values(values, kinds, where, CheckpointError)


def _either(first: Kind, second: Kind):
    return lambda value: first.is_good(value) or second.is_good(value)


def _channels(value: Any, default: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return one value per channel; a single number is that of all three."""
    if value is None:
        return default
    return tuple(value) if isinstance(value, list) else (value,) * 3


def _cropped(found: Found, kind: ProcessorClass, flags: Mapping[str, bool], side: int) -> dict[str, Any]:
    """Return has_crop and resize. Raises CheckpointError for images that do not end at side x side px."""
    resize = _size(found, kind, side) if flags["do_resize"] else ()
    if flags["do_center_crop"]:
        _check_side(found, "crop_size", _crop_size(found, side), side)
        if resize == (side, side):  # nothing is left to cut off
            return {"has_crop": False, "resize": None}
        return {"has_crop": True, "resize": None if resize == (side,) else resize}
    if len(resize) == 2 or (flags["do_pad"] and resize):
        _check_side(found, "size", (resize[0], resize[-1]), side)
        return {"has_crop": False, "resize": None}
    what = "size keeps the shape of the image" if resize else "do_resize is false"
    raise CheckpointError(
        f"{found.where}: {what} and nothing is cropped (do_center_crop), but the vision tower takes {side}x{side} px"
    )


def _tiled(found: Found, flags: Mapping[str, bool], side: int) -> dict[str, Any]:
    """Return has_crop and resize of LlavaNextImageProcessor, whose tiles are crop_size and whose whole image is size.

    With both at the tower's side the flags of resize and crop change nothing: tiles have that size already.
    """
    size = _size(found, CLASSES["LlavaNext"], side)
    _check_side(found, "size", (size[0], size[-1]), side)
    _check_side(found, "crop_size", _crop_size(found, side), side)
    return {"has_crop": flags["do_center_crop"], "resize": None}


def _check_side(found: Found, key: str, size: tuple[int, int], side: int) -> None:
    if size != (side, side):
        stated = shown(found.values[key]) if key in found.values else f"not stated, so {DEFAULT_EDGE}"
        raise CheckpointError(
            f"{found.where}: {key} is {stated}, which makes images of {size[0]}x{size[1]} px, but the vision tower "
            f"takes {side}x{side} px (image_size)"
        )


def _crop_size(found: Found, side: int) -> tuple[int, int]:
    """Return (width, height) px. NOTE: where it is absent, the classes' 224 px would not fit any other tower."""
    value = found.values.get("crop_size")
    if value is None:
        return side, side
    if isinstance(value, int):
        value = [value, value]
    edges = _edges(value)
    if isinstance(edges, dict) and edges.keys() == {"height", "width"}:
        edges = [edges["height"], edges["width"]]
    if not PAIR.is_good(edges):
        raise CheckpointError(f"{found.where}: crop_size is {shown(value)}, expected height and width, 1 to 4096 px")
    return edges[1], edges[0]


def _size(found: Found, kind: ProcessorClass, side: int) -> tuple[int, ...]:
    """Return (width, height), or (edge,) for the short edge, in px.

    A number alone is the short edge. Where the key is absent, it is the class's 224 px, which fits a tower of that
    side, and any other only behind a crop; a file that states neither leaves it to the tower.
    """
    value = found.values.get("size")
    if value is None:
        edge = side if found.values.get("crop_size") is None else DEFAULT_EDGE
        return (edge,) if kind.has_crop else (edge, edge)
    edges = _edges(value)
    if SIZE_EDGE.is_good(edges):
        if found.values.get("default_to_square"):  # transformers 5 makes a square of it then, and 4 does not
            raise CheckpointError(f"{found.where}: size is a number beside default_to_square true, expected an object")
        return (edges,)
    if isinstance(edges, dict) and edges.keys() == {"shortest_edge"} and SIZE_EDGE.is_good(edges["shortest_edge"]):
        return (edges["shortest_edge"],)
    if isinstance(edges, dict) and edges.keys() == {"height", "width"}:
        edges = [edges["height"], edges["width"]]
    if not PAIR.is_good(edges):
        raise CheckpointError(
            f"{found.where}: size is {shown(value)}, expected shortest_edge, or height and width, 1 to 4096 px"
        )
    return edges[1], edges[0]


def _edges(value: Any) -> Any:
    """Return a size without what it leaves open."""
    return {key: edge for key, edge in value.items() if edge is not None} if isinstance(value, dict) else value
