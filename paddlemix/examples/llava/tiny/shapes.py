"""Pictures of coloured shapes: what is in them and how they look. Knows no question and no file."""

from __future__ import annotations

import math
import random
import zlib
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

KINDS = ("circle", "square", "triangle", "star")
COLOURS = {  # near the corners of the cube of colours, so that each is told from the others by a plane
    "red": (230, 25, 25),
    "green": (25, 175, 45),
    "blue": (30, 60, 230),
    "yellow": (250, 225, 20),
    "pink": (240, 60, 220),
    "cyan": (20, 205, 230),
    "black": (20, 20, 20),
}
BACKGROUNDS = ((255, 255, 255), (235, 235, 235), (252, 244, 226), (226, 240, 252), (232, 248, 230))
EDGE, EDGE_SHARE = (20, 20, 20), 0.2  # a line around each shape, as a share of its radius: the same in all colours
NUM_CELLS = 2  # a picture is 2 x 2 cells, and a cell holds one shape at most
MAX_SHAPES = 4
UNIT = 64  # lengths of a scene are in 1/64 of the picture's side
MIN_RADIUS, MAX_RADIUS, MAX_JITTER = 11.5, 14.0, 1.5
CELL = UNIT / NUM_CELLS
SHARED = 0.6  # share of the pictures in which shapes may be alike
ALIKE_KIND, ALIKE_COLOUR = 0.3, 0.6  # chance there that a shape has the first one's kind, or its colour
MARGIN = 0.4  # kept free between a shape and the edge of its cell
HELD_OUT_EVERY = 8  # one layout in eight is never trained on


@dataclass(frozen=True)
class Shape:
    """One shape: its cell as (column, row), its centre (x, y) and its radius in 1/64 of the picture's side."""

    kind: str
    colour: str
    cell: tuple[int, int]
    centre: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class Scene:
    """Shapes row by row, each row from left to right, on a plain background (RGB, 0..255)."""

    shapes: tuple[Shape, ...]
    background: tuple[int, int, int]

    @property
    def layout(self) -> str:
        """Say what stands in which cell: the same for two scenes that any question answers alike."""
        return ";".join(f"{shape.colour} {shape.kind} {shape.cell[0]}{shape.cell[1]}" for shape in self.shapes)

    @property
    def is_held_out(self) -> bool:
        """Tell whether the layout belongs to the evaluation side of the split, whatever the seed."""
        return zlib.crc32(self.layout.encode()) % HELD_OUT_EVERY == 0


def random_scene(rng: random.Random) -> Scene:
    """Draw one to four shapes in cells of their own, in SHARED of the pictures some of the first one's kind or colour.

    In the other pictures all kinds and colours differ. Shared colours are the more frequent ones: among them a shape
    can be found by its kind only, which is harder to learn.
    """
    num_shapes = rng.randint(1, MAX_SHAPES)
    cells = [(column, row) for row in range(NUM_CELLS) for column in range(NUM_CELLS)]
    cells = [cells[index] for index in sorted(rng.sample(range(len(cells)), num_shapes))]
    kinds = rng.sample(KINDS, num_shapes)
    colours = rng.sample(tuple(COLOURS), num_shapes)
    if rng.random() < SHARED:
        for index in range(1, num_shapes):
            if rng.random() < ALIKE_KIND:
                kinds[index] = kinds[0]
            if rng.random() < ALIKE_COLOUR:
                colours[index] = colours[0]
    shapes = [_place(rng, kind, colour, cell) for kind, colour, cell in zip(kinds, colours, cells, strict=True)]
    return Scene(tuple(shapes), rng.choice(BACKGROUNDS))


def split_scene(rng: random.Random, is_held_out: bool) -> Scene:
    """Draw scenes until one lies on the wanted side of the split between training and evaluation."""
    while True:
        scene = random_scene(rng)
        if scene.is_held_out == is_held_out:
            return scene


def _place(rng: random.Random, kind: str, colour: str, cell: tuple[int, int]) -> Shape:
    """Give a shape a size and a place inside its cell."""
    radius = rng.uniform(MIN_RADIUS, MAX_RADIUS)
    reach = min(MAX_JITTER, CELL / 2 - MARGIN - radius)
    x, y = ((edge + 0.5) * CELL + rng.uniform(-reach, reach) for edge in cell)
    return Shape(kind, colour, cell, (x, y), radius)


def draw(scene: Scene, side: int = UNIT) -> Image.Image:
    """Draw the scene as an RGB picture of side x side pixels with smooth edges."""
    oversampling = 4 if side <= 128 else 2
    scale = side * oversampling / UNIT
    image = Image.new("RGB", (side * oversampling, side * oversampling), scene.background)
    pen = ImageDraw.Draw(image)
    for shape in scene.shapes:
        pen.polygon([(x * scale, y * scale) for x, y in outline(shape)], fill=EDGE)
        inner = replace(shape, radius=shape.radius * (1 - EDGE_SHARE))
        pen.polygon([(x * scale, y * scale) for x, y in outline(inner)], fill=COLOURS[shape.colour])
    return image.resize((side, side), Image.Resampling.BOX)


def outline(shape: Shape) -> list[tuple[float, float]]:
    """List the corners of a shape in 1/64 of the picture's side; all of them lie within its radius."""
    if shape.kind == "circle":
        return _polygon(shape, [(1.0, 360 * step / 48) for step in range(48)])
    if shape.kind == "square":
        return _polygon(shape, [(1.0, 45 + 90 * step) for step in range(4)])
    if shape.kind == "triangle":
        return _polygon(shape, [(1.0, 120 * step) for step in range(3)])
    return _polygon(shape, [(0.45 if step % 2 else 1.0, 36 * step) for step in range(10)])


def _polygon(shape: Shape, corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Turn (share of the radius, degrees clockwise from the top) into points around the centre."""
    x, y = shape.centre
    angles = [(share * shape.radius, math.radians(degrees)) for share, degrees in corners]
    return [(x + length * math.sin(angle), y - length * math.cos(angle)) for length, angle in angles]
