"""How a checkpoint preprocesses its images. Part of the checkpoint, never guessed from a name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..foreign_json import FLAG, Kind, check_values, list_of, number, one_of, whole_number

RESAMPLES = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # a place in this list is PIL's number
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
ANYRES_GRIDS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
EDGE = whole_number(1, 1 << 14)  # px, of a tile or of a whole canvas
MEAN = list_of(number(-1e4, 1e4), 3, 3)
STD = list_of(number(0, 1e4, is_open=True), 3, 3)
RESCALE = number(0, 1e4, is_open=True)
KINDS = {
    "mode": one_of(("square", "pad", "anyres")),
    "merge": one_of(("spatial_unpad", "spatial", "flat")),
    "side": EDGE,
    "patch_size": EDGE,
    "mean": MEAN,
    "std": STD,
    "grids": Kind(list_of(list_of(EDGE, 2, 2), 0, 4096).is_good, "a list of (width, height) pairs, each 1 to 16384"),
    "has_class_token": FLAG,
    "has_crop": FLAG,
    "resample": one_of(RESAMPLES),
    "resize": Kind(list_of(whole_number(1, 1 << 12), 0, 2).is_good, "a list of up to two lengths, 1 to 4096").or_null(),
    "rescale_factor": RESCALE,
    "has_normalize": FLAG,
    "has_rounded_sizes": FLAG,
}
# The fields that an image processor's file states, whatever the mode.
PIXEL_FIELDS = ("mean", "std", "has_crop", "resample", "resize", "rescale_factor", "has_normalize")


@dataclass(frozen=True)
class ImageSpec:
    """Preprocessing and token geometry of the images.

    side, patch_size: pixels of a tile and of a ViT patch. mean, std: per RGB channel, for values times rescale_factor.
    mode: "square" (resize and center crop), "pad" (to a square of the mean color), "anyres" (a grid of tiles).
    has_crop: "square" cuts out the middle, as CLIP does; without it the whole image is squashed, as SigLIP does.
    grids: canvas sizes (width, height) in pixels for anyres, each a multiple of side.
    merge: how anyres tiles become one sequence. has_class_token: the tower's class token is kept (cls_patch).
    resample: PIL's filter of every resize, of RESAMPLES. resize: before the crop: None scales the short edge
    to side, (edge,) to another length, (width, height) squashes, () leaves the image as it is.
    has_normalize: False leaves the values at value * rescale_factor; mean is then only the color of the padding.
    has_rounded_sizes: how "spatial_unpad" counts rows and columns, see `anyres.unpad_box`.
    """

    side: int = 336
    patch_size: int = 14
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    mode: str = "pad"
    grids: tuple[tuple[int, int], ...] = ()
    merge: str = "flat"
    has_class_token: bool = False
    has_crop: bool = True
    resample: str = "bicubic"
    resize: tuple[int, ...] | None = None
    rescale_factor: float = 1 / 255
    has_normalize: bool = True
    has_rounded_sizes: bool = False

    def __post_init__(self):
        check_values(vars(self), KINDS, "image spec")
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "grids", tuple(tuple(grid) for grid in self.grids))
        if self.resize is not None:
            object.__setattr__(self, "resize", tuple(self.resize))
        self._check_geometry()
        if self.mode == "pad" and not all(0 <= channel <= 1 for channel in self.mean):
            raise ValueError(f"image mode 'pad' fills with the mean as a color, expected values in 0..1: {self.mean}")

    def _check_geometry(self):
        """Raise ValueError for tiles that would not be side x side."""
        if self.mode == "anyres" and not self.grids:
            raise ValueError("image mode 'anyres' needs at least one grid (width, height), found none")
        for grid in self.grids:
            if any(edge % self.side for edge in grid):
                raise ValueError(f"grid {grid} is not (width, height) in multiples of the tile side {self.side}")
        if not 1 <= self.patch_size <= self.side:
            raise ValueError(f"a tile side of {self.side} px holds no patch of {self.patch_size} px")
        if self.resize is not None and (self.mode == "anyres" or not self.has_crop):
            raise ValueError(
                f"resize {list(self.resize)} needs a crop to {self.side} px after it and another mode than 'anyres'; "
                f"found mode {self.mode!r}, has_crop {self.has_crop}"
            )

    @property
    def patches_per_side(self) -> int:
        """Return how many whole patches fit. The tower does not see the rest (384 px hold 27 patches of 14)."""
        return self.side // self.patch_size

    @property
    def pixels(self) -> dict[str, Any]:
        """Return the fields that an image processor's file states."""
        return {name: getattr(self, name) for name in PIXEL_FIELDS}

    def as_square(self) -> ImageSpec:
        """Return the spec of the inner image processor, without padding and tiles."""
        return dataclasses.replace(self, mode="square", grids=(), merge="flat")
