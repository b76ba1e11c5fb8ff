"""The settings of transformers' image processors as fields of ImageSpec. Every layout reads them here.

For what each class does with a key see `image_processing_*.py` of transformers 4.55 and 5.24.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...foreign_json import (
    FLAG,
    TEXT,
    KeyRules,
    Kind,
    check_keys,
    check_values,
    either,
    list_of,
    number,
    shown,
    whole_number,
)
from ...image.spec import CLIP_MEAN, CLIP_STD, EDGE, RESAMPLES, RESCALE, ImageSpec
from ...models.config import VisionConfig
from ...tensor_files.stored import CheckpointError
from .components import read_pairs
from .folder import Folder
from .image_processor_file import Found

CLASS_KEYS = ("image_processor_type", "feature_extractor_type")
DEFAULT_EDGE = 224  # px, of `size` and `crop_size` in every class
# transformers 5 and the torchvision classes of 4 save these names with a suffix, older versions save FeatureExtractor.
CLASS_NAME = re.compile(r"(CLIP|Siglip|LlavaNext|Llava)(?:ImageProcessor(?:Fast|Pil)?|FeatureExtractor)")


@dataclass(frozen=True)
class ProcessorClass:
    """An image processor of transformers and the values that an absent key has.

    has_crop: do_center_crop. can_pad: do_pad pads each image to a square with the mean color. In the other classes it
    pads the images of a batch to one size, which changes no pixel. has_tiles: it lays out an image on a canvas.
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
FLAG_KINDS = {**dict.fromkeys((*FLAGS, "do_convert_rgb"), FLAG.or_null()), "processor_class": TEXT.or_null()}
FLAG_KINDS["image_grid_pinpoints"] = either(list_of(list_of(EDGE, 2, 2), 0, 4096), TEXT).or_null()
RULES = KeyRules(
    used=frozenset(
        {*FLAGS, *CLASS_KEYS, "size", "crop_size", "default_to_square"}
        | {"resample", "rescale_factor", "image_mean", "image_std"}
    ),
    # NOTE: do_convert_rgb false does not change an RGB image, and the classes fail on any other. The data formats are
    # those of the arrays in a call.
    inert=frozenset(
        {"processor_class", "do_convert_rgb", "return_tensors", "device", "disable_grouping", "image_grid_pinpoints"}
        | {"data_format", "input_data_format", "_valid_processor_keys", "_valid_kwargs_names"}
    ),
    fixed={"aspect_ratio_setting": ("anyres", None)},  # in released 1.6 folders; no class reads it
)
SIZE_EDGE = whole_number(1, 1 << 12)
PAIR = list_of(SIZE_EDGE, 2, 2)
# Key -> (the flag that enables it, its kind). resample: PIL's number. transformers 4 fails on the name of a filter, and
# 5 reads any name as bilinear.
NUMBERS = {
    "resample": ("do_resize", Kind(whole_number(0, 5).is_good, "PIL's number of a filter, 0 to 5 (3 is bicubic)")),
    "rescale_factor": ("do_rescale", RESCALE),
    "image_mean": ("do_normalize", number(-1e4, 1e4)),
    "image_std": ("do_normalize", number(0, 1e4, is_open=True)),
}


@dataclass(frozen=True)
class ImageProcessor:
    """The settings of a file. pixels: fields of ImageSpec (`PIXEL_FIELDS`). is_padded: images are padded to a square.

    pinpoints: image_grid_pinpoints as stated, None if it is absent or the class has no tiles.
    """

    kind: ProcessorClass
    pixels: dict[str, Any]
    is_padded: bool
    pinpoints: Any = None


def read_processor(found: Found, default: str, side: int) -> ImageProcessor:
    """Read an image processor's file for a tower whose images have side x side px.

    default: the class that AutoImageProcessor uses for the model if the file names none. Raises CheckpointError for
    other classes, for unsupported and bad values, and for images of another size than the tower's.
    """
    kind, where, values = _kind(found, default), found.where, found.values
    check_keys(values, RULES, where, CheckpointError)
    check_values(values, FLAG_KINDS, where, CheckpointError)
    defaults = {"do_center_crop": kind.has_crop, "do_pad": False}
    flags = {name: bool(values.get(name, defaults.get(name, True))) for name in FLAGS}  # null is false in transformers
    flags["do_pad"] &= kind.can_pad
    flags["do_resize"] |= kind.has_tiles  # an image is always resized to its canvas
    _check_numbers(values, flags, where)
    pixels = {
        "mean": _channels(values.get("image_mean"), kind.mean),
        "std": _channels(values.get("image_std"), kind.std),
        "resample": RESAMPLES[values["resample"]] if flags["do_resize"] and "resample" in values else "bicubic",
        "rescale_factor": values.get("rescale_factor", 1 / 255) if flags["do_rescale"] else 1.0,
        "has_normalize": flags["do_normalize"],
        **_geometry(_Sizes(found, kind, side), flags),
    }
    return ImageProcessor(kind, pixels, flags["do_pad"], values.get("image_grid_pinpoints") if kind.has_tiles else None)


def llava_image(
    folder: Folder, vision: VisionConfig, pixels: Mapping[str, Any], *, mode: str, grids: Any, merge: str
) -> ImageSpec:
    """Return the image spec of a folder with the keys of LLaVA's own code. grids, merge: used for tiles only.

    `process_anyres_image` in `llava/mm_utils.py` resizes tiles with Pillow's default filter, whatever the processor's
    is. The processor then has nothing to resize.
    """
    is_anyres = mode == "anyres"
    return ImageSpec(
        side=vision.image_size,
        patch_size=vision.patch_size,
        mode=mode,
        grids=read_pairs(folder, grids) if is_anyres else (),
        merge=merge if is_anyres else "flat",
        has_class_token=vision.select_feature == "cls_patch",
        **{**pixels, **({"resample": "bicubic"} if is_anyres else {})},
    )


def _kind(found: Found, default: str) -> ProcessorClass:
    """Return the class that the file names."""
    key = next((one for one in CLASS_KEYS if found.values.get(one)), None)
    if key is None:
        return BY_NAME[default]
    name = found.values[key]
    match = CLASS_NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise CheckpointError(
            f"{found.where} states {key} {shown(name)}, which is not supported here: expected one of "
            f"{', '.join(BY_NAME)} (also with the suffix Fast or Pil)"
        )
    return CLASSES[match.group(1)]


def _check_numbers(values: Mapping[str, Any], flags: Mapping[str, bool], where: str) -> None:
    """Check the enabled keys. A key whose flag is off may be null."""
    kinds = {}
    for key, (flag, kind) in NUMBERS.items():
        if key.startswith("image_"):
            channels = list_of(kind, 3, 3)
            kind = Kind(either(kind, channels).is_good, f"one or three numbers, each {kind.expected}")
        is_needed = flags[flag] or (key == "image_mean" and flags["do_pad"])
        kinds[key] = kind if is_needed else kind.or_null()
    check_values(values, kinds, where, CheckpointError)


def _channels(value: Any, default: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return one value per channel. A single number is for all three."""
    if value is None:
        return default
    return tuple(value) if isinstance(value, list) else (value,) * 3


def _geometry(sizes: _Sizes, flags: Mapping[str, bool]) -> dict[str, Any]:
    """Return has_crop and resize. Raises CheckpointError for images of another size than the tower's.

    LlavaNextImageProcessor makes tiles of crop_size and a whole image of size: if both are the tower's, its flags for
    resizing and cropping change nothing.
    """
    fits = (sizes.side, sizes.side)
    if sizes.kind.has_tiles:
        size = sizes.size()
        sizes.check("size", (size[0], size[-1]))
        sizes.check("crop_size", sizes.crop_size())
        return {"has_crop": flags["do_center_crop"], "resize": None}
    resize = sizes.size() if flags["do_resize"] else ()
    if flags["do_center_crop"]:
        sizes.check("crop_size", sizes.crop_size())
        if resize == fits:  # there is nothing to crop
            return {"has_crop": False, "resize": None}
        return {"has_crop": True, "resize": None if resize == fits[:1] else resize}
    if len(resize) == 2 or (flags["do_pad"] and resize):
        sizes.check("size", (resize[0], resize[-1]))
        return {"has_crop": False, "resize": None}
    what = "size keeps the shape of the image" if resize else "do_resize is false"
    raise CheckpointError(
        f"{sizes.found.where}: {what} and nothing is cropped (do_center_crop), but the vision tower needs "
        f"{sizes.side}x{sizes.side} px"
    )


@dataclass(frozen=True)
class _Sizes:
    """`size` and `crop_size` of a file for a tower whose images have side x side px.

    Absent ones are the class's 224 px. A file without a class states differences from the tower's own images: there an
    absent crop_size is the tower's, and so is an absent size if crop_size is absent too.
    """

    found: Found
    kind: ProcessorClass
    side: int

    def crop_size(self) -> tuple[int, int]:
        """Return (width, height) px."""
        value = self._stated("crop_size")
        value = [value, value] if isinstance(value, int) else value
        pair = _as_pair(value)
        if not PAIR.is_good(pair):
            raise self._error("crop_size", "height and width, 1 to 4096 px")
        return pair[1], pair[0]

    def size(self) -> tuple[int, ...]:
        """Return (width, height), or (edge,) for the short edge, in px. A single number is the short edge."""
        value = self._stated("size")
        if SIZE_EDGE.is_good(value):
            if self.found.values.get("default_to_square"):  # transformers 5 makes a square of it, 4 does not
                raise self._error("size", "an object beside default_to_square true")
            return (value,)
        edges = _without_nulls(value)
        if edges.keys() == {"shortest_edge"} and SIZE_EDGE.is_good(edges["shortest_edge"]):
            return (edges["shortest_edge"],)
        pair = _as_pair(value)
        if not PAIR.is_good(pair):
            raise self._error("size", "shortest_edge, or height and width, 1 to 4096 px")
        return pair[1], pair[0]

    def check(self, key: str, size: tuple[int, int]) -> None:
        """Raise CheckpointError for a size (width, height) that is not the tower's."""
        if size != (self.side, self.side):
            default = "" if key in self.found.values else " by default"
            raise CheckpointError(
                f"{self.found.where}: {key} is {shown(self._stated(key))}{default}, which makes images of "
                f"{size[0]}x{size[1]} px, but the vision tower needs {self.side}x{self.side} px (image_size)"
            )

    def _stated(self, key: str) -> Any:
        values = self.found.values
        has_class = any(values.get(name) for name in CLASS_KEYS)
        crop = DEFAULT_EDGE if has_class else self.side
        edge = DEFAULT_EDGE if has_class or "crop_size" in values else self.side
        size = {"shortest_edge": edge} if self.kind.has_crop else {"height": edge, "width": edge}
        return values.get(key, {"size": size, "crop_size": crop}[key])

    def _error(self, key: str, expected: str) -> CheckpointError:
        return CheckpointError(f"{self.found.where}: {key} is {shown(self._stated(key))}, expected {expected}")


def _as_pair(value: Any) -> Any:
    """Return [height, width] of an object with both, and other values unchanged."""
    edges = _without_nulls(value)
    return [edges["height"], edges["width"]] if edges.keys() == {"height", "width"} else value


def _without_nulls(value: Any) -> dict[str, Any]:
    """Return an object without its nulls, and an empty one for any other value."""
    return {key: edge for key, edge in value.items() if edge is not None} if isinstance(value, dict) else {}
