"""LLaVA's question and answer files, as its model_vqa.py, model_vqa_loader.py and model_vqa_science.py have them.

A question is asked with its image first, on a line of its own, and its text as the file has it. Answers are written in
the order of the questions, with LLaVA's keys. A file of answers that was begun is continued.
"""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ...constants import IMAGE_MARK
from ...output import OutputError, appending, replacing
from ..item import ImageSource, Problem, Question, named
from ..prompt_texts import OPTION_LETTER
from ..readers.rows import Placed, id_of, image_in, json_lines, json_list, named_id, text_of

ID_MARKS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"  # shortuuid's: none looks like another
ID_LENGTH = 22  # of these marks hold the 128 bits of a UUID
LINE_START = '{"question_id": '
REASONING_END = " ###\nANSWER:"  # model_vqa_science.py of LLaVA's first version continues a reasoning with it
ANSWER_LEAD = "\n The answer is "


def read_questions(path: Path, image_folder: Path) -> list[Question]:
    """Read JSON lines with question_id, image and text. A question without an image is asked without one.

    The id of a question is its place, as question_id need not be unique. Raises ValueError that names bad lines and
    missing images.
    """

    def make(row: dict[str, Any], place: int) -> Question:
        text = text_of(row, "text")
        id_of(row, "question_id")
        return _question(place, row["question_id"], text, text, _images(row, image_folder))

    return _made(path, json_lines(path), make)


def read_conversations(path: Path, image_folder: Path, *, is_letter_asked: bool = False) -> list[Question]:
    """Read a JSON list with id, conversations and perhaps image, of which the first turn is asked.

    is_letter_asked: end it with the instruction to answer with the option's letter (--single-pred-prompt). Raises
    ValueError as `read_questions` does.
    """

    def make(row: dict[str, Any], place: int) -> Question:
        text = text_of(row["conversations"][0], "value").replace(IMAGE_MARK, "").strip()
        text += OPTION_LETTER if is_letter_asked else ""
        images = _images(row, image_folder)
        id_of(row, "id")
        return _question(place, row["id"], text, f"{IMAGE_MARK}\n{text}" if images else text, images)

    return _made(path, json_list(path), make)


def _images(row: Mapping[str, Any], folder: Path) -> tuple[ImageSource, ...]:
    if "image" not in row:
        return ()
    image = image_in(folder, text_of(row, "image"))
    if not image.path.is_file():
        raise ValueError(f"there is no image {image.path}")
    return (image,)


def _question(place: int, name: Any, text: str, prompt: str, images: tuple[ImageSource, ...]) -> Question:
    pieces = ("", "\n" + text) if images else (text,)
    return Question(str(place), pieces, images, row={"question_id": name, "prompt": prompt})


def _made(path: Path, rows: Iterator[Placed] | Sequence[Placed], make) -> list[Question]:
    questions, problems = [], []
    for where, row in rows:
        try:
            if not isinstance(row, dict):
                raise ValueError(str(row) if isinstance(row, ValueError) else "the row is not an object")
            questions.append(make(row, len(questions) + len(problems)))
        except KeyError as error:
            problems.append(Problem(where, f"the row has no {error}", named_id(row)))
        except (ValueError, TypeError, IndexError, AttributeError) as error:  # values of other types
            problems.append(Problem(where, str(error), named_id(row)))
    if problems:
        raise ValueError(f"{path} cannot be asked; nothing was written: {named(problems, 'problems')}")
    return questions


def chunk_of(questions: Sequence[Question], num_chunks: int, index: int) -> Sequence[Question]:
    """Return a part of the questions, ceil(N / num_chunks) of them, as LLaVA's scripts divide them; it may be empty.

    Raises ValueError for an index that is not below the number.
    """
    if not 0 <= index < num_chunks:
        raise ValueError(f"--chunk-idx is {index} and --num-chunks {num_chunks}: expected an index from 0 below it")
    size = -(-len(questions) // num_chunks)
    return questions[index * size : (index + 1) * size]


def model_id_of(model_path: str) -> str:
    """Return the name of a model in answer files: the last part of its path, with its folder's for checkpoint-N."""
    parts = model_path.strip("/").split("/")
    return "_".join(parts[-2:]) if parts[-1].startswith("checkpoint-") else parts[-1]


def short_id(number: int | None = None) -> str:
    """Return a UUID (a new random one without a number) as shortuuid writes it."""
    number = uuid.uuid4().int if number is None else number
    marks = []
    for _ in range(ID_LENGTH):
        number, place = divmod(number, len(ID_MARKS))
        marks.append(ID_MARKS[place])
    return "".join(reversed(marks))


class AnswerFile:
    """A file of answers, open for writing. An answer waits until those to the questions before it are there.

    lines: those that it has, by the id of the question, in the order of the file. left: the questions that had no
    answer when it was opened.
    """

    def __init__(
        self, path: Path, file: BinaryIO, lines: Mapping[str, str], questions: Sequence[Question], model_id: str
    ):
        self.path, self.model_id = path, model_id
        self._file = file
        self._lines = dict(lines)
        self.left = [one for one in questions if one.id not in self._lines]
        self._order = [one.id for one in questions]
        self._next = 0  # place in `left`
        self._waiting: dict[str, str] = {}

    def add(self, question: Question, text: str | None) -> None:
        """Take an answer, None if there is none, and write those whose turn it is."""
        row = {**question.row, "text": text, "answer_id": short_id(), "model_id": self.model_id, "metadata": {}}
        self._waiting[question.id] = "" if text is None else json.dumps(row) + "\n"
        while self._next < len(self.left) and self.left[self._next].id in self._waiting:
            name = self.left[self._next].id
            line = self._waiting.pop(name)
            self._next += 1
            if line:
                self._lines[name] = line
                self._file.write(line.encode())
                self._file.flush()

    def put_in_order(self) -> None:
        """Write the file anew if answers came late: to questions that could not be asked when it was begun."""
        ordered = [name for name in self._order if name in self._lines]
        if ordered != list(self._lines):
            with replacing(self.path) as file:
                file.writelines(self._lines[name].encode() for name in ordered)


@contextmanager
def answer_file(path: Path, questions: Sequence[Question], model_id: str) -> Iterator[AnswerFile]:
    """Open a file of answers to questions, to continue it or to begin it.

    Raises OutputError if it holds anything else, or answers of another model.
    """
    lines: dict[str, str] = {}

    def keep(content: bytes) -> None:
        lines.update(_kept(path, content, questions, model_id))

    with appending(path, keep) as file:
        answers = AnswerFile(path, file, lines, questions, model_id)
        yield answers
        answers.put_in_order()


def _kept(path: Path, content: bytes, questions: Sequence[Question], model_id: str) -> dict[str, str]:
    """Return the lines of a file by the id of the question; rows that are alike answer one question after the other."""
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in questions:
        places[_key(one.row)].append(one.id)
    lines: dict[str, str] = {}
    *whole, cut = content.decode("utf-8", "replace").split("\n")
    if cut and not cut.startswith(LINE_START) and not LINE_START.startswith(cut):
        raise OutputError(f"{path} ends with {cut[:40]!r}, which is no answer: name another --answers-file")
    for number, line in enumerate(whole, 1):
        row = _parsed(line)
        names = places.get(_key(row), []) if "answer_id" in row and isinstance(row.get("text"), str) else []
        if not names or row.get("model_id") != model_id:
            what = f"the model is {row['model_id']!r}" if names else "it is no answer to one of these questions"
            raise OutputError(
                f"{path} line {number}: {what}, so the file is not continued: name another --answers-file, or remove it"
            )
        lines[names.pop(0)] = line + "\n"
    return lines


def _parsed(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    return row if isinstance(row, dict) else {}


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return str(row.get("question_id")), str(row.get("prompt"))
