"""Write the images and the conversations to train and evaluate the tiny model.

OUTPUT/images/...png    the images, a thousand per folder
OUTPUT/pretrain.json    stage 1: [image mark, text] pairs for the template plain
OUTPUT/train.json       stage 2: conversations in LLaVA's from/value format
OUTPUT/val.json         at most a hundred conversations about images that are
                        held out from training
OUTPUT/test.jsonl       other held-out images: a row for each question with
                        image, kind, question and expected
OUTPUT/questions.jsonl  the same questions, mixed, for `eval_tasks` and for
                        `paddlemix eval run custom`

Image paths are relative to OUTPUT, with --image-root in front.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from paddlemix.examples.llava.tiny.questions import (
    ASKERS,
    QA,
    ask_all,
    ask_description,
    caption,
    facts,
    text_only,
)
from paddlemix.examples.llava.tiny.shapes import Scene, draw, split_scene
from paddlemix.output import replacing
from paddlemix.terminal.sizes import plural

SIDE = 48  # pixels, the input size of the tiny model: a patch of 24 for each cell
MAX_VAL = 100  # images of val.json
TEXT_ONLY_EVERY = 25  # conversations with an image for each one without
MAX_TEXT_TURNS = 3
NUM_TURNS = 5  # questions of a conversation
TURN_SHARES = {"count": 3, "place": 3, "colour": 2, "shape": 1, "corner": 1, "yes_no": 3}
DESCRIPTION_ALONE, DESCRIPTION_LAST = 0.15, 0.3  # shares of the conversations
CAPTION_EVERY = 3  # every third text of stage 1 is a description, the others are facts in random order
JSON_NAMES = ("pretrain.json", "train.json", "val.json", "test.jsonl", "questions.jsonl")
IMAGES_PER_FOLDER = 1000


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write to, made if it is missing")
    parser.add_argument("--num-train", type=int, default=20000, help="number of training images")
    parser.add_argument(
        "--num-eval",
        type=int,
        default=500,
        help="number of held-out images in test.jsonl; as many in val.json, but at most 100",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=SIDE, help="side of the images in pixels")
    parser.add_argument("--image-root", default="", help="text in front of each image path, such as a folder")
    arguments = parser.parse_args(argv)
    for name, least in (("num_train", 1), ("num_eval", 1), ("side", 16)):
        if getattr(arguments, name) < least:
            option = name.replace("_", "-")
            parser.error(f"--{option} is {getattr(arguments, name)}: expected {least} or more")
    write_data(
        arguments.output, arguments.num_train, arguments.num_eval, arguments.seed, arguments.side, arguments.image_root
    )


def write_data(output: Path, num_train: int, num_eval: int, seed: int, side: int = SIDE, image_root: str = "") -> None:
    """Write images and conversations; the same arguments write the same files.

    Old JSON files are deleted first and new ones written last, each in one step, so that an interrupted run leaves none
    that does not match the images.
    """
    output.mkdir(parents=True, exist_ok=True)
    for name in JSON_NAMES:
        (output / name).unlink(missing_ok=True)
    pretrain, train = [], []
    for index, (path, scene, rng) in enumerate(_images(output, "train", num_train, seed, side)):
        image = image_root + path
        train.append(conversation(path, image, _turns(scene, rng)))
        text = caption(scene) if index % CAPTION_EVERY == 0 else facts(scene, rng)
        pretrain.append({"image": image, "conversations": [["<image>", text]]})
        if len(pretrain) % TEXT_ONLY_EVERY == 0:
            train.append(conversation(f"text-{len(pretrain)}", None, _text_turns(rng)))
    val = [
        conversation(path, image_root + path, _turns(scene, rng))
        for path, scene, rng in _images(output, "val", min(num_eval, MAX_VAL), seed, side)
    ]
    scenes_to_ask = _images(output, "test", num_eval, seed, side)
    asked = [(image_root + path, qa) for path, scene, rng in scenes_to_ask for qa in ask_all(scene, rng)]
    asked += [(None, qa) for qa in text_only()]
    test = [{"image": image, "kind": qa.kind, "question": qa.question, "expected": qa.answer} for image, qa in asked]
    for name, rows in zip(JSON_NAMES[:3], (pretrain, train, val), strict=True):
        _write(output / name, "[\n" + ",\n".join(_lines(rows)) + "\n]\n")
    _write(output / JSON_NAMES[3], "\n".join(_lines(test)) + "\n")
    _write(output / JSON_NAMES[4], "\n".join(_lines(_questions(test, seed))) + "\n")


def _questions(test: list[dict[str, Any]], seed: int) -> Iterator[dict[str, Any]]:
    """Yield the questions about images with our keys, in random order, so that the first few are of all kinds."""
    rows = [(number, row) for number, row in enumerate(test) if row["image"]]
    random.Random(f"{seed} questions").shuffle(rows)
    for number, row in rows:
        yield {
            "id": number,
            "image": row["image"],
            "question": row["question"],
            "answer": row["expected"],
            "category": row["kind"],
        }


def conversation(name: str, image: str | None, turns: Iterable[QA]) -> dict[str, Any]:
    """Return a row in LLaVA's from/value format; the image is before the first question."""
    values = [value for qa in turns for value in (("human", qa.question), ("gpt", qa.answer))]
    row: dict[str, Any] = {"id": name}
    if image is not None:
        row["image"] = image
        values[0] = ("human", "<image>\n" + values[0][1])
    row["conversations"] = [{"from": role, "value": value} for role, value in values]
    return row


def scenes(split: str, num: int, seed: int) -> Iterator[tuple[Scene, random.Random]]:
    """Yield the scenes of "train", "val" or "test", each with the random generator for its questions.

    Layouts of val and test never occur in train.
    """
    for index in range(num):
        rng = random.Random(f"{seed} {split} {index}")
        yield split_scene(rng, is_held_out=split != "train"), rng


def _images(output: Path, split: str, num: int, seed: int, side: int) -> Iterator[tuple[str, Scene, random.Random]]:
    """Draw and save the images of a split; yield their paths relative to output."""
    for index, (scene, rng) in enumerate(scenes(split, num, seed)):
        path = f"images/{split}/{index // IMAGES_PER_FOLDER:03}/{index:06}.png"
        with replacing(output / path) as file:
            draw(scene, side).save(file, "PNG")
        _report(split, index + 1, num)
        yield path, scene, rng


def _report(split: str, done: int, num: int) -> None:
    """Print the progress, on one line in a terminal."""
    if done == num:
        print(f"\r{split}: {plural(num, 'image')}", file=sys.stderr)
    elif done % 500 == 0 and sys.stderr.isatty():
        print(f"\r{split}: {done} of {num}", end="", file=sys.stderr, flush=True)


def _turns(scene: Scene, rng: random.Random) -> list[QA]:
    """Return a few questions, harder kinds more often, sometimes followed or replaced by one for a description.

    After a description, the other answers could be copied from the text, so that the model would learn less.
    """
    kinds = [kind for kind, share in TURN_SHARES.items() for _ in range(share)]
    asked = [ASKERS[kind](scene, rng) for kind in rng.sample(kinds, NUM_TURNS)]
    turns = list({qa.answer: qa for qa in asked if qa is not None}.values())
    form = rng.random()
    if form < DESCRIPTION_ALONE or not turns:  # repeated shapes allow few questions
        return [ask_description(scene, rng)]
    return [*turns, ask_description(scene, rng)] if form < DESCRIPTION_ALONE + DESCRIPTION_LAST else turns


def _text_turns(rng: random.Random) -> list[QA]:
    return rng.sample(text_only(), rng.randint(1, MAX_TEXT_TURNS))


def _lines(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    return (json.dumps(row, ensure_ascii=False) for row in rows)


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


if __name__ == "__main__":
    main()
