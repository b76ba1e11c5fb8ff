"""ScienceQA and SEED-Bench: multiple-choice questions in their own files."""

from __future__ import annotations

import re
from typing import Any

from ...prepare.scienceqa_forms import IMAGE, LETTERS
from ..item import Record
from .rows import Files, Read, id_of, image_in, json_list, labels_of, letters, read_json, records, text_of, texts_of
from .rows import json_lines as lines_of

_GRADE = re.compile(r"grade\d{1,2}")
_OPTION = re.compile(r"([A-E])\. (.*)")


def read_scienceqa(files: Files, split: str = "test") -> Read:
    """Read problems.json and pid_splits.json, in the order of the split.

    Images are SPLIT/PID/NAME below images/, or PID/NAME.
    """
    problems, names = read_json(files["questions"], dict), read_json(files["splits"], list, split)
    placed = [(f"{files['questions'].name} problem {name}", _problem(problems, str(name))) for name in names]

    def make(row: dict) -> Record:
        name, choices = row["id"], texts_of(row, "choices")
        if not 0 <= row["answer"] < len(choices) <= len(LETTERS):
            raise ValueError(f"the answer is {row['answer']} of {len(choices)} choices; {len(LETTERS)} are the most")
        images = (_image(files, name, row["image"], split),) if row.get("image") else ()
        hint = row.get("hint") or ""
        fields = {"answer": row["answer"], "choices": choices, "hint": hint}
        fields |= labels_of(row, "subject", "grade")
        if not _GRADE.fullmatch(fields.get("grade", "grade1")):
            raise ValueError(f"'grade' is {fields['grade'][:40]!r}, expected grade1 to grade12")
        return Record(
            name,
            text_of(row, "question"),
            images,
            hint=hint,
            options=letters(choices),
            fields=fields,
            row={"question_id": name},
        )

    return records(placed, make)


def _problem(problems: dict[str, Any], name: str) -> Any:
    if name not in problems:
        return ValueError(f"problem {name} is in the split, but not in the problems")
    return {**problems[name], "id": name} if isinstance(problems[name], dict) else problems[name]


def _image(files: Files, name: str, image: str, split: str):
    folder = "val" if split in ("val", "minival") else "test" if split in ("test", "minitest") else "train"
    return image_in(files["images"], f"{name}/{image}", f"{folder}/{name}/{image}")


def read_scienceqa_of_llava(files: Files) -> Read:
    """Read LLaVA's llava_test_CQM-A.json: the questions as they are asked, and the letters as answers.

    NOTE: it has no hints, subjects and grades, so only accuracy and IMG can be reported.
    """

    def make(row: dict) -> Record:
        name = id_of(row, "id")
        human, gpt = (text_of(turn, "value") for turn in row["conversations"])
        question, choices = _split_options(human.replace(IMAGE, "").strip())
        if gpt not in LETTERS[: len(choices)]:
            raise ValueError(f"the answer is {gpt!r}, expected the letter of one of {len(choices)} choices")
        images = (image_in(files["images"], row["image"], f"test/{row['image']}"),) if row.get("image") else ()
        fields = {"answer": LETTERS.index(gpt), "choices": choices}
        return Record(name, question, images, options=letters(choices), fields=fields, row={"question_id": name})

    return records(json_list(files["questions"]), make)


def _split_options(text: str) -> tuple[str, list[str]]:
    """Return the text before the option lines, and the options. The last line "A. ..." starts them.

    Options of several lines are kept whole.
    """
    lines = text.split("\n")
    starts = [number for number, line in enumerate(lines) if line.startswith("A. ")]
    if not starts or not starts[-1]:
        raise ValueError("the question has no line 'A. ...' after its text")
    choices: list[str] = []
    for line in lines[starts[-1] :]:
        option = _OPTION.fullmatch(line)
        if option and option.group(1) == LETTERS[len(choices) : len(choices) + 1]:
            choices.append(option.group(2))
        else:
            choices[-1] += f"\n{line}"
    return "\n".join(lines[: starts[-1]]), choices


def read_seed(files: Files) -> Read:
    """Read SEED-Bench.json, with images in SEED-Bench-image/ and middle frames of videos in SEED-Bench-video-image/.

    Role "frames": LLaVA's llava-seed-bench.jsonl, which names the image of every question. Without it the frame of a
    video is looked for under the question's id.
    """
    types = {str(number): name for name, number in read_json(files["questions"], dict, "question_type").items()}
    named = {}
    if "frames" in files:
        rows = (row for _, row in lines_of(files["frames"]) if isinstance(row, dict))
        named = {str(row.get("question_id")): row.get("image") for row in rows}

    def make(row: dict) -> Record:
        name, kind = id_of(row, "question_id"), text_of(row, "data_type")
        options = letters(row[f"choice_{letter}"] for letter in "abcd")
        fields = {"answer": text_of(row, "answer"), "data_type": kind, "options": options}
        fields["question_type"] = types[id_of(row, "question_type_id")]
        frames = [f"SEED-Bench-video-image/{name}{ending}" for ending in (".png", ".jpg")]
        names = [named[name]] if named.get(name) else frames if kind == "video" else [_seed_image(row)]
        image = image_in(files["images"], *names)
        row_out = {"question_id": row["question_id"]}
        return Record(name, text_of(row, "question"), (image,), options=options, fields=fields, row=row_out)

    return records(json_list(files["questions"], "questions"), make)


def _seed_image(row: dict) -> str:
    return f"SEED-Bench-image/{text_of(row, 'data_id')}"
