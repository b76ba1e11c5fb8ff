"""Write scikit-learn's handwritten digits as rows to train on and questions.

OUTPUT/images/...png    the digits, 8x8 pixels drawn as 48x48: the input size of
                        the bundled model
OUTPUT/train.json       conversations in LLaVA's format about 1,400 digits
OUTPUT/questions.jsonl  questions about all others with the right answers, for
                        `paddlemix eval run custom`

The digits are the test set of UCI's "Optical recognition of handwritten digits"
(CC BY 4.0), 1,797 of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from paddlemix.output import replacing

NUM_TRAIN = 1400
SCALE = 6  # pixels of a drawn digit for each of its own
HIGHEST = 16  # value of full ink
QUESTION = "Which digit is this?"


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write to, made if it is missing")
    arguments = parser.parse_args(argv)
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        print("error: the digits come with scikit-learn: pip install scikit-learn", file=sys.stderr)
        return 1
    digits = load_digits()
    write_digits(arguments.output, digits.images, digits.target)
    return 0


def write_digits(output: Path, images: np.ndarray, digits: np.ndarray) -> None:
    """Write images and conversations. images: [N, 8, 8] from 0 (paper) to 16 (ink); digits: [N]."""
    train, questions = [], []
    for number, (image, digit) in enumerate(zip(images, digits, strict=True)):
        name = f"{number:04d}.png"
        draw(image, output / "images" / name)
        if number < NUM_TRAIN:
            turns = [{"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": str(digit)}]
            train.append({"id": name, "image": f"images/{name}", "conversations": turns})
        else:
            questions.append(
                {"id": name, "image": name, "question": QUESTION, "answer": str(digit), "category": str(digit)}
            )
    with replacing(output / "train.json") as file:
        file.write(json.dumps(train, indent=1).encode())
    with replacing(output / "questions.jsonl") as file:
        file.write("".join(json.dumps(row) + "\n" for row in questions).encode())


def draw(image: np.ndarray, path: Path) -> None:
    """Write a digit as a PNG, dark on white."""
    pixels = (255 - image * (255 / HIGHEST)).round().astype(np.uint8)
    drawn = Image.fromarray(pixels.repeat(SCALE, axis=0).repeat(SCALE, axis=1))
    with replacing(path) as file:
        drawn.save(file, format="PNG")


if __name__ == "__main__":
    sys.exit(main())
