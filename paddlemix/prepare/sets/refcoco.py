"""RefCOCO, RefCOCO+ and RefCOCOg: phrases and the boxes of what they describe, in COCO's images.

Raw files: refs(unc).p, refs(google).p or refs(umd).p, and instances.json. The pickles are read without running code.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from ...json_object import parse_object
from ..converter import OUTPUT_DIR, Argument, Converter
from ..job import Job
from ..paths import RawPath, output_folder, raw_folder, read_whole
from ..refer_files import Box, in_image, in_square, read_references
from ..row import Made, Placed, RowError, is_number, llava_row, object_of, shown, text_of, value_of

AUTHORS = ("unc", "umd", "google")  # who split the references, in the order of preference
SPLIT = re.compile("train|val|test[A-Z]{0,3}")
FRAMES = {"padded": in_square, "original": in_image}
LLAVA, XTUNER = "llava", "xtuner"
LOCATE, DESCRIBE = "locate", "describe"
QUESTIONS: Mapping[tuple[str, str], Sequence[str]] = {
    (LLAVA, LOCATE): ("Please provide the bounding box coordinate of the region this sentence describes: {}.",),
    (LLAVA, DESCRIBE): ("Please provide a short description for this region: {}.",),
    # of xtuner (xtuner/dataset/refcoco_json.py), which asks all of them about each phrase
    (XTUNER, LOCATE): (
        "[refer] {}",
        "[refer] give me the location of {}",
        "[refer] where is {} ?",
        "[refer] from this image, tell me the location of {}",
        "[refer] the location of {} is",
        "[refer] could you tell me the location for {} ?",
        "[refer] where can I locate the {} ?",
    ),
    (XTUNER, DESCRIBE): (
        "[identify] {}",
        "[identify] what object is in this location {}",
        "[identify] identify the object present at this location {}",
        "[identify] what is it in {}",
        "[identify] describe this object in {}",
        "[identify] this {} is",
        "[identify] the object in {} is",
    ),
}


@dataclass(frozen=True)
class Form:
    """How a phrase is written. text_key: sent (normalized) or raw. prefix, name: of images ({} is COCO's number)."""

    style: str
    task: str
    frame: str
    text_key: str
    image: str

    def convert(self, value: tuple[dict, Mapping[Any, Any], Mapping[Any, Any]]) -> Iterator[Made]:
        """Yield a row for each phrase and question. value: a reference, all images, and all boxes by their numbers."""
        reference, images, boxes = value
        number, box_number = _number(reference, "image_id"), _number(reference, "ann_id")
        if number not in images or box_number not in boxes:
            raise RowError("not in instances.json", f"image {number} or box {box_number} is not in instances.json")
        size, corners = _size(images[number]), _corners(boxes[box_number])
        written = self._written(FRAMES[self.frame](corners, size))
        sentences = value_of(reference, "sentences")
        if not isinstance(sentences, list):
            raise RowError("no sentences", f"'sentences' is {shown(sentences)}, expected a list")
        for sentence in sentences:
            try:
                name = f"{_number(reference, 'ref_id')}_{_number(object_of(sentence), 'sent_id')}"
                phrase = text_of(sentence, self.text_key).strip()
                yield from self._rows(name, self.image.format(number), phrase, written)
            except RowError as error:
                yield error.problem

    def _rows(self, name: str, image: str, phrase: str, box: str) -> Iterator[Made]:
        asked, answer = (phrase, box) if self.task == LOCATE else (box, phrase)
        questions = QUESTIONS[self.style, self.task]
        for place, question in enumerate(questions):
            identity = name if len(questions) == 1 else f"{name}_{place}"
            row = llava_row(identity, image, question.replace("{}", asked), answer)
            if self.style == XTUNER:  # the mark is last
                row["conversations"][0]["value"] = question.replace("{}", asked) + "\n<image>"
            yield row

    def _written(self, box: Box) -> str:
        """Return a box as text: two decimals, or hundredths that are cut off, as xtuner does."""
        if self.style == LLAVA:
            return "[" + ", ".join(f"{number:.2f}" for number in box) + "]"
        return "{" + "".join(f"<{int(number * 100)}>" for number in box) + "}"


def _number(row: Mapping[str, Any], key: str) -> int:
    value = value_of(row, key)
    if not isinstance(value, int):
        raise RowError(f"{key} is not a number", f"{key!r} is {shown(value)}, expected a whole number")
    return value


def _size(image: Mapping[str, Any]) -> tuple[int, int]:
    """Return the (width, height) px of an image."""
    size = (image.get("width"), image.get("height"))
    if not all(isinstance(one, int) and one > 0 for one in size):
        raise RowError("an image without a size", f"the image has the size {shown(size)}")
    return size


def _corners(box: Any) -> Box:
    """Return left, top, right, bottom for left, top, width, height, px."""
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(is_number(one) for one in box):
        raise RowError("not a box", f"the box is {shown(box)}, expected four numbers")
    left, top, width, height = map(float, box)
    return left, top, left + width, top + height


def references_of(read: Any, split: str) -> Iterator[Placed]:
    """Yield the references of a split with all images and boxes. read: returns references, images and boxes."""
    references, images, boxes = read()
    for number, one in enumerate(references, 1):
        if one.get("split") == split:
            yield Placed(f"ref {shown(one.get('ref_id'))}", (one, images, boxes), number / len(references))


def _read(pickle: RawPath, instances: RawPath) -> tuple[list[dict], dict[Any, dict], dict[Any, Any]]:
    found = parse_object(read_whole(instances), ValueError, str(instances))
    try:
        images = {one["id"]: one for one in found["images"]}
        boxes = {one["id"]: one["bbox"] for one in found["annotations"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{instances} is not a file of REFER: expected images and annotations ({error})") from None
    return read_references(pickle), images, boxes


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """Return a job for each split. Raises ValueError for a folder that is not one of REFER's."""
    folder = raw_folder(arguments.dataset_folder)
    known = [one for one in AUTHORS if (folder / f"refs({one}).p").is_file()]
    authors = arguments.split_by or next(iter(known), None)
    if authors not in known or not (folder / "instances.json").is_file():
        raise ValueError(f"{folder} has no refs({authors or 'unc'}).p and instances.json: expected a folder of REFER")
    pickle, instances = folder / f"refs({authors}).p", folder / "instances.json"
    read = cache(partial(_read, pickle, instances))
    splits = _splits(pickle)
    asked = arguments.splits or splits
    if not set(asked) <= set(splits):
        raise ValueError(f"{pickle} has the splits {', '.join(splits)}: found {', '.join(asked)}")
    _check_name(arguments.image_name)
    frame = arguments.bbox_frame or ("padded" if arguments.style == LLAVA else "original")
    key = arguments.text or ("sent" if arguments.style == LLAVA else "raw")
    form = Form(arguments.style, arguments.task, frame, key, arguments.image_name)
    target, made = output_folder(folder, arguments.output_dir), []
    for split in asked:
        output = target / f"{folder.name}_{authors}_{split}_{arguments.task}_llava.jsonl"
        rows = partial(references_of, read, split)
        settings = {"split": split, **vars(form)}
        made.append(Job(output, (pickle, instances), rows, form.convert, settings))
    return made


def _splits(pickle: RawPath) -> list[str]:
    """Return the splits that a file names, which become names of files."""
    splits: dict[str, None] = {}
    for one in read_references(pickle):
        split = one.get("split")
        if not isinstance(split, str) or not SPLIT.fullmatch(split):
            raise ValueError(f"{pickle} has splits that are not train, val or test: found {shown(split)}")
        splits[split] = None
    return list(splits)


def _check_name(name: str) -> None:
    """Raise ValueError unless a name has a place for COCO's number."""
    try:
        has_number = name.format(1) != name.format(2)
    except (ValueError, LookupError, AttributeError):
        has_number = False
    if not has_number:
        raise ValueError(f"--image_name is {name!r}: expected a path with a place for the number, as {{:012d}}.jpg")


CONVERTER = Converter(
    name="refcoco",
    description="RefCOCO, RefCOCO+, RefCOCOg: phrases and boxes",
    files="refs(unc).p (RefCOCO, RefCOCO+) or refs(umd).p (RefCOCOg), and instances.json",
    example="refcoco --dataset_folder refcoco --splits train",
    arguments=(
        Argument("--dataset_folder", "folder with the pickle and instances.json", options={"metavar": "DIR"}),
        Argument(
            "--split_by",
            "whose splits (default: the first of unc, umd and google that is there)",
            False,
            {"choices": AUTHORS},
        ),
        Argument("--splits", "train, val, testA, testB, test (default: all)", False, {"nargs": "+"}),
        Argument(
            "--task",
            "ask for the box of a phrase (default), or for the phrase of a box",
            False,
            {"choices": (LOCATE, DESCRIBE), "default": LOCATE},
        ),
        Argument(
            "--style",
            "questions and boxes as in LLaVA's 665K mix (default), or as in xtuner",
            False,
            {"choices": (LLAVA, XTUNER), "default": LLAVA},
        ),
        Argument(
            "--bbox_frame",
            "boxes in parts of the image padded to a square (default for llava), or of the "
            "original image (default for xtuner)",
            False,
            {"choices": tuple(FRAMES)},
        ),
        Argument(
            "--text",
            "phrases normalized (sent, default for llava) or as typed (raw, default for xtuner)",
            False,
            {"choices": ("sent", "raw")},
        ),
        Argument(
            "--image_name",
            "path of an image for COCO's number (default: coco/train2017/{:012d}.jpg)",
            False,
            {"default": "coco/train2017/{:012d}.jpg", "metavar": "PATH"},
        ),
        OUTPUT_DIR,
    ),
    jobs=jobs,
)
