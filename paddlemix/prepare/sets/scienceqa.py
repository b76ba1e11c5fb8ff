"""ScienceQA: questions of school science with options, in every form of LLaVA's script, and in the released one.

Raw files: problems.json {id: problem} and pid_splits.json {split: [id, ...]}. Images: images/{train,val,test}/ID/NAME.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...constants import IMAGE_MARK
from ...json_object import parse_object
from ..converter import OUTPUT_DIR, Argument, Converter
from ..image_tree import ImageTree, image_folder, looked_up
from ..job import Job
from ..paths import RawPath, inside, output_folder, raw_folder, read_whole
from ..row import Placed, Problem, RowError, file_name_of, object_of, shown, text_of, texts_of, value_of
from ..scienceqa_forms import LETTERS, conversation, flat_row, instruction_and_output, released_prompt

RELEASED = "released"
PROBE = {"question": "", "choices": [""], "answer": 0, "hint": "", "image": None, "lecture": "", "solution": ""}


@dataclass(frozen=True)
class Form:
    """How a problem is written. name: as QCM-LEPA, or RELEASED. tree: where images are looked up; None to not look."""

    name: str
    is_flat: bool
    has_split_folders: bool
    prefix: str
    tree: ImageTree | None

    def convert(self, value: tuple[str, Any]) -> dict[str, Any]:
        """Return the row of a problem, of which the name and the value in problems.json are given."""
        name, row = value
        problem = _checked(object_of(row))
        image = self._image(name, problem, row)
        if self.name == RELEASED:
            made = _released(name, problem)
        else:
            made = (flat_row if self.is_flat else conversation)(name, problem, self.name)
        return {**made, "image": image} if image else made

    def _image(self, name: str, problem: Mapping[str, Any], row: Mapping[str, Any]) -> str:
        if not problem["image"]:
            return ""
        image = f"{name}/{problem['image']}"
        split = row.get("split")
        if (self.has_split_folders or self.tree) and split not in ("train", "val", "test"):
            raise RowError("no split", f"'split' is {shown(split)}, which names the folder of images")
        if self.tree and not self.tree.has(f"{split}/{image}"):
            raise RowError("no image", f"there is no {split}/{image} in {self.tree.root}")
        return "/".join(filter(None, [self.prefix.rstrip("/"), split if self.has_split_folders else "", image]))


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a problem that the forms use. Raises RowError unless each has its type."""
    choices, answer = texts_of(row, "choices"), value_of(row, "answer")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise RowError("no such option", f"the answer is {shown(answer)} of {len(choices)} options")
    if len(choices) > len(LETTERS):
        raise RowError("too many options", f"{len(choices)} options, expected at most {len(LETTERS)}")
    texts = {}
    for key in ("hint", "lecture", "solution"):
        text = row.get(key)
        if text is not None and not isinstance(text, str):
            raise RowError(f"{key} is not a text", f"{key!r} is {shown(text)}, expected a text")
        texts[key] = text or ""
    image = file_name_of(row, "image") if row.get("image") else None
    question = text_of(row, "question")
    if any(IMAGE_MARK in text for text in (question, *choices, *texts.values())):
        raise RowError(f"{IMAGE_MARK} in a text", f"a text has {IMAGE_MARK}, which stands for an image")
    return {"question": question, "choices": choices, "answer": answer, "image": image, **texts}


def _released(name: str, problem: Mapping[str, Any]) -> dict[str, Any]:
    turns = [
        {"from": "human", "value": released_prompt(problem)},
        {"from": "gpt", "value": LETTERS[problem["answer"]]},
    ]
    head = {"id": name, "image": problem["image"]} if problem["image"] else {"id": name}
    return {**head, "conversations": turns}


def problems_of(folder: RawPath, split: str) -> Iterator[Placed]:
    """Yield (name, value) of the problems of a split, in its order."""
    problems, names = _object(inside(folder, "problems.json")), _names(folder, split)
    for number, name in enumerate(map(str, names), 1):
        found = Problem("not in problems.json", f"problem {name} is in the split, but not in problems.json")
        yield Placed(f"problem {name}", (name, problems[name]) if name in problems else found, number / len(names))


def _names(folder: RawPath, split: str) -> list[Any]:
    path = inside(folder, "pid_splits.json")
    splits = _object(path)
    if not isinstance(splits.get(split), list):
        raise ValueError(f"{path} has no split {split!r}: expected one of {', '.join(splits)}")
    return splits[split]


def _object(path: RawPath) -> dict[str, Any]:
    return parse_object(read_whole(path), ValueError, str(path))


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """Return the job. Raises ValueError for a form or a split that there is not."""
    folder, split, name = raw_folder(arguments.base_dir), arguments.split, arguments.prompt_format
    for needed in ("problems.json", "pid_splits.json"):
        if not inside(folder, needed).is_file():
            raise ValueError(f"{folder} has no {needed}: expected the folder data/scienceqa of ScienceQA")
    if name == RELEASED and arguments.flat:
        raise ValueError(f"--flat is a layout of LLaVA's script: --prompt_format {RELEASED} has none")
    if name != RELEASED:
        instruction_and_output(PROBE, name)
    _names(folder, split)
    tree = ImageTree(image_folder(arguments.image_folder)) if arguments.image_folder else None
    form = Form(name, arguments.flat, arguments.split_folders, arguments.image_prefix, tree)
    target = output_folder(folder, arguments.output_dir)
    output = target / f"{'scienceqa' if arguments.flat else 'llava'}_{split}_{name}.jsonl"
    settings = {"form": name, "split_folders": arguments.split_folders, "prefix": arguments.image_prefix}
    settings |= looked_up(tree) if tree else {}
    inputs = [inside(folder, "problems.json"), inside(folder, "pid_splits.json")]
    return [Job(output, inputs, partial(problems_of, folder, split), form.convert, settings)]


CONVERTER = Converter(
    name="scienceqa",
    description="ScienceQA: questions of school science, in any form of LLaVA's script",
    files="problems.json and pid_splits.json",
    example="scienceqa --base_dir ScienceQA/data/scienceqa --split train --prompt_format QCM-LEPA",
    arguments=(
        Argument("--base_dir", "folder with problems.json and pid_splits.json", options={"metavar": "DIR"}),
        Argument("--split", "train, val, test, trainval, minitrain, minival or minitest"),
        Argument(
            "--prompt_format",
            "as QCM-LEA (default) or CQM-A; 'released': as in LLaVA's released "
            "llava_test_CQM-A.json, which its script does not write",
            False,
            {"default": "QCM-LEA"},
        ),
        Argument(
            "--flat",
            "write rows with instruction and output, as the script's convert_to_jsonl does",
            False,
            {"action": "store_true"},
        ),
        Argument(
            "--image_folder",
            "folder images, with train, val and test: problems whose image is not there are "
            "dropped (default: images are not looked up)",
            False,
            {"metavar": "DIR"},
        ),
        Argument(
            "--split_folders",
            "write paths as train/ID/NAME instead of ID/NAME, for several splits in one file",
            False,
            {"action": "store_true"},
        ),
        Argument("--image_prefix", "folder to put before the paths of images", False, {"default": ""}),
        OUTPUT_DIR,
    ),
    jobs=jobs,
)
