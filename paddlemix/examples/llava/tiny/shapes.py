"""Images of colored shapes: random scenes and how they are drawn."""

from __future__ import annotations

import math
import random
import zlib
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

KINDS = ("circle", "square", "triangle", "star")
COLORS = {  # near the corners of the RGB cube, so that a plane separates each from the others
    "red": (230, 25, 25),
    "green": (25, 175, 45),
    "blue": (30, 60, 230),
    "yellow": (250, 225, 20),
    "pink": (240, 60, 220),
    "cyan": (20, 205, 230),
    "black": (20, 20, 20),
}
BACKGROUNDS = ((255, 255, 255), (235, 235, 235), (252, 244, 226), (226, 240, 252), (232, 248, 230))
EDGE, EDGE_SHARE = (20, 20, 20), 0.2  # outline of each shape, as a share of its radius, with the same color for all
NUM_CELLS = 2  # an image has 2 x 2 cells, each with at most one shape
MAX_SHAPES = 4
UNIT = 64  # lengths of a scene are in 1/64 of the image's side
MIN_RADIUS, MAX_RADIUS, MAX_JITTER = 11.5, 14.0, 1.5
CELL = UNIT / NUM_CELLS
SHARED = 0.6  # share of the images in which shapes may have the same kind or color
SAME_KIND, SAME_COLOR = 0.3, 0.6  # probabilities, in these, that a shape has the kind, or the color, of the first one
MARGIN = 0.4  # free space between a shape and the edge of its cell
HELD_OUT_EVERY = 8  # one layout in eight is never trained on


@dataclass(frozen=True)
class Shape:
    """One shape: its cell as (column, row), its center (x, y) and its radius in 1/64 of the image's side."""

    kind: str
    color: str
    cell: tuple[int, int]
    center: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class Scene:
    """Shapes row by row, each row from left to right, on a plain background (RGB, 0..255)."""

    shapes: tuple[Shape, ...]
    background: tuple[int, int, int]

    @property
    def layout(self) -> str:
        """A text of the shapes and their cells, equal for two scenes with the same answers to all questions."""
        return ";".join(f"{shape.color} {shape.kind} {shape.cell[0]}{shape.cell[1]}" for shape in self.shapes)

    @property
    def is_held_out(self) -> bool:
        """Whether the layout is in the evaluation part of the split, which does not depend on the seed."""
        return zlib.crc32(self.layout.encode()) % HELD_OUT_EVERY == 0


def random_scene(rng: random.Random) -> Scene:
    """Return a random scene with one to four shapes in different cells.

    In the share SHARED of the scenes some shapes have the kind or the color of the first one; in the others all kinds
    and colors differ. The same color is more frequent, since finding a shape by its kind is harder to learn.
    """
    num_shapes = rng.randint(1, MAX_SHAPES)
    cells = [(column, row) for row in range(NUM_CELLS) for column in range(NUM_CELLS)]
    cells = [cells[index] for index in sorted(rng.sample(range(len(cells)), num_shapes))]
    kinds = rng.sample(KINDS, num_shapes)
    colors = rng.sample(tuple(COLORS), num_shapes)
    if rng.random() < SHARED:
        for index in range(1, num_shapes):
            if rng.random() < SAME_KIND:
                kinds[index] = kinds[0]
            if rng.random() < SAME_COLOR:
                colors[index] = colors[0]
    shapes = [_place(rng, kind, color, cell) for kind, color, cell in zip(kinds, colors, cells, strict=True)]
    return Scene(tuple(shapes), rng.choice(BACKGROUNDS))


def split_scene(rng: random.Random, is_held_out: bool) -> Scene:
    """Return a random scene of the training part or the evaluation part of the split."""
    while True:
        scene = random_scene(rng)
        if scene.is_held_out == is_held_out:
            return scene


def _place(rng: random.Random, kind: str, color: str, cell: tuple[int, int]) -> Shape:
    """Return a shape with a random size and position in its cell."""
    radius = rng.uniform(MIN_RADIUS, MAX_RADIUS)
    reach = min(MAX_JITTER, CELL / 2 - MARGIN - radius)
    x, y = ((edge + 0.5) * CELL + rng.uniform(-reach, reach) for edge in cell)
    return Shape(kind, color, cell, (x, y), radius)


def draw(scene: Scene, side: int = UNIT) -> Image.Image:
    """Return the scene as an RGB image of side x side pixels with smooth edges."""
    oversampling = 4 if side <= 128 else 2
    scale = side * oversampling / UNIT
    image = Image.new("RGB", (side * oversampling, side * oversampling), scene.background)
    pen = ImageDraw.Draw(image)
    for shape in scene.shapes:
        pen.polygon([(x * scale, y * scale) for x, y in outline(shape)], fill=EDGE)
        inner = replace(shape, radius=shape.radius * (1 - EDGE_SHARE))
        pen.polygon([(x * scale, y * scale) for x, y in outline(inner)], fill=COLORS[shape.color])
    return image.resize((side, side), Image.Resampling.BOX)


def outline(shape: Shape) -> list[tuple[float, float]]:
    """Return the corners of a shape in 1/64 of the image's side, all within its radius."""
    if shape.kind == "circle":
        return _polygon(shape, [(1.0, 360 * step / 48) for step in range(48)])
    if shape.kind == "square":
        return _polygon(shape, [(1.0, 45 + 90 * step) for step in range(4)])
    if shape.kind == "triangle":
        return _polygon(shape, [(1.0, 120 * step) for step in range(3)])
    return _polygon(shape, [(0.45 if step % 2 else 1.0, 36 * step) for step in range(10)])


def _polygon(shape: Shape, corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return points around the center for (share of the radius, degrees clockwise from the top)."""
    x, y = shape.center
    angles = [(share * shape.radius, math.radians(degrees)) for share, degrees in corners]
    return [(x + length * math.sin(angle), y - length * math.cos(angle)) for length, angle in angles]
