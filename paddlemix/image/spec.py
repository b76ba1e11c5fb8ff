"""How a checkpoint wants its pictures: part of the checkpoint, never guessed from a name."""

from __future__ import annotations

from dataclasses import dataclass

MODES = ("square", "pad", "anyres")
MERGES = ("spatial_unpad", "spatial", "flat")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
ANYRES_GRIDS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


@dataclass(frozen=True)
class ImageSpec:
    """Preprocessing and token geometry of the pictures.

    side, patch_size: pixels of a tile and of a ViT patch. mean, std: per RGB channel, for values in 0..1.
    mode: "square" (resize and centre crop), "pad" (to a square with the mean colour), "anyres" (a grid of tiles).
    has_crop: "square" cuts out the middle, as CLIP does; without it the whole picture is squashed, as SigLIP does.
    grids: canvas sizes (width, height) in pixels for anyres, each a multiple of side.
    merge: how anyres tiles become one sequence. has_class_token: the tower's class token is kept (cls_patch).
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

    def __post_init__(self):
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "grids", tuple(tuple(grid) for grid in self.grids))
        if self.mode not in MODES:
            raise ValueError(f"unknown image mode {self.mode!r}: expected one of {', '.join(MODES)}")
        if self.merge not in MERGES:
            raise ValueError(f"unknown tile merge {self.merge!r}: expected one of {', '.join(MERGES)}")
        if self.mode == "anyres" and not self.grids:
            raise ValueError("image mode 'anyres' needs at least one grid (width, height), found none")
        for grid in self.grids:
            if len(grid) != 2 or any(edge <= 0 or edge % self.side for edge in grid):
                raise ValueError(f"grid {grid} is not (width, height) in multiples of the tile side {self.side}")
        if not 1 <= self.patch_size <= self.side:
            raise ValueError(f"a tile side of {self.side} px holds no patch of {self.patch_size} px")

    @property
    def patches_per_side(self) -> int:
        """Return how many whole patches fit: what is left of the side is not seen (384 px hold 27 patches of 14)."""
        return self.side // self.patch_size
