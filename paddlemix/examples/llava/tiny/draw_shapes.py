"""Draw the bundled image, shapes.png, and write scene.json: its shapes, and questions with the correct answers."""

from __future__ import annotations

import argparse
from pathlib import Path

from paddlemix.examples.llava.tiny.questions import caption
from paddlemix.examples.llava.tiny.shapes import CELL, Scene, Shape, draw
from paddlemix.output import replacing, write_json

HERE = Path(__file__).parent
SIDE = 360
SHAPES = (
    ("star", "red", (0, 0), 13.5),
    ("triangle", "red", (1, 0), 13.0),
    ("square", "green", (0, 1), 12.0),
    ("circle", "blue", (1, 1), 12.5),
)
QUESTIONS = {
    "Describe the picture.": None,  # the caption
    "How many shapes are there?": "The number of shapes is four.",
    "Which shape is green?": "The green shape is a square.",
    "What colour is the circle?": "The circle is blue.",
    "Where is the star?": "The red star is top left.",
    "What is at the top right?": "Top right is a red triangle.",
    "Is there a yellow star?": "No, there is no yellow star.",
}


def main(argv: list[str] | None = None) -> None:
    """Run the command line: write both files to a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE)
    output = parser.parse_args(argv).output
    scene = demo_scene()
    with replacing(output / "shapes.png") as file:
        draw(scene, SIDE).save(file, "PNG", optimize=True)
    questions = {question: answer or caption(scene) for question, answer in QUESTIONS.items()}
    write_json(output / "scene.json", {"shapes": scene.layout, "questions": questions})


def demo_scene() -> Scene:
    """Return a scene whose layout is held out from training."""
    shapes = [
        Shape(kind, color, cell, tuple((edge + 0.5) * CELL for edge in cell), radius)
        for kind, color, cell, radius in SHAPES
    ]
    scene = Scene(tuple(sorted(shapes, key=lambda shape: shape.cell[::-1])), (252, 244, 226))
    assert scene.is_held_out, "choose another scene: the model may have seen this layout"
    return scene


if __name__ == "__main__":
    main()
