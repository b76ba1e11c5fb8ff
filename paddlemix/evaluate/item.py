"""One item of a benchmark: the record that its files state, and the question that a model is asked.

Readers make records, prompt styles make questions of them (prompts.py). What cannot be asked is a Problem with a name,
so that nothing is dropped silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..constants import IMAGE_MARK

MAX_NAMED = 5  # problems that a report names one by one
MAX_NAME = 60  # characters of a file's name in a message


class ImageSource(Protocol):
    """An image that is read when it is needed."""

    def __call__(self) -> Path | bytes:
        """Return a path or the bytes of a file, as image.load_image takes them."""


@dataclass(frozen=True)
class ImageFile:
    """An image in a file of its own."""

    path: Path

    def __call__(self) -> Path:
        """Return the path. Raises ValueError if there is no file."""
        if not _is_file(self.path):
            raise ValueError(f"there is no image {self.path}")
        return self.path


def first_file(folders: Sequence[Path], *names: str) -> ImageFile:
    """Return the first file of one of several names in one of several folders; the first of both if there is none.

    Raises ValueError for a name that no file can have.
    """
    candidates = [folder / name for folder in folders for name in names]
    return ImageFile(next((path for path in candidates if _is_file(path)), candidates[0]))


def _is_file(path: Path) -> bool:
    """Return whether there is a file. Raises ValueError if that cannot be told: a name too long, a closed folder."""
    try:
        return path.is_file()
    except OSError as error:
        raise ValueError(f"the image {path.name[:MAX_NAME]!r} cannot be looked for: {error.strerror}") from None


@dataclass(frozen=True)
class AbsentImage:
    """An image of a question that is read from a file of answers, to be scored and not to be asked."""

    def __call__(self) -> Path:
        """Raise ValueError."""
        raise ValueError("the question comes from a file of answers, which holds no images: name the benchmark's files")


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row or an answer. where: file and line. id: of the item, "" if it is not known."""

    where: str
    text: str
    id: str = ""

    def __str__(self) -> str:
        name = f" ({self.id})" if self.id else ""
        return f"{self.where}{name}: {self.text}"


@dataclass(frozen=True)
class Record:
    """What the files of a benchmark state about one item.

    id: unique in its task. other_ids: under which saved answers of other projects name it, not always unique. text: the
    question alone. options: texts by letter. ocr: OCR tokens of the image joined by ", "; None where the files have
    none. fields: what the scorer needs, without the prediction; an answer that the files do not tell is absent. row:
    what submission files need, under the benchmark's own names. where: file and line.
    """

    id: str
    text: str
    images: tuple[ImageSource, ...] = ()
    hint: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    ocr: str | None = None
    other_ids: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True)
class Question:
    """One question as the model gets it.

    pieces: the texts before, between and after the images, always one more than images, as Message.text takes them.
    other_ids, fields, row: see Record. has_ocr: whether the prompt has a line of OCR tokens; None where the benchmark
    has none.
    """

    id: str
    pieces: tuple[str, ...]
    images: tuple[ImageSource, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict)
    other_ids: tuple[str, ...] = ()
    has_ocr: bool | None = None

    def __post_init__(self):
        if len(self.pieces) != len(self.images) + 1:
            raise ValueError(f"Question {self.id} has {len(self.images)} images and {len(self.pieces)} pieces of text.")

    @property
    def prompt(self) -> str:
        """The text of the user's turn, with a mark at the place of each image."""
        return IMAGE_MARK.join(self.pieces)

    def scored(self, prediction: Any) -> list[dict[str, Any]]:
        """Return what the scorer gets: one item, or one for each category if the fields have a tuple of them."""
        item = {**self.fields, "id": self.id, "prediction": prediction, "prompt": self.prompt}
        categories = item.get("category")
        return [{**item, "category": one} for one in categories] if isinstance(categories, tuple) else [item]


@dataclass(frozen=True)
class Loaded:
    """The questions of a task, in the order of its files, and what is wrong with the others."""

    questions: tuple[Question, ...]
    problems: tuple[Problem, ...] = ()
    files: tuple[Path, ...] = ()

    def summary(self) -> str:
        """Return one line with the counts, and the first problems by name."""
        line = f"{len(self.questions):,} question{'s' * (len(self.questions) != 1)}"
        return line + (f", {named(self.problems, 'problem')}" if self.problems else "")


def named(found: Sequence[Any], what: str) -> str:
    """Return a count with the first of what was found: "2 problems: a; b"; "3 missing: a; b; c"."""
    shown = "; ".join(str(one) for one in found[:MAX_NAMED])
    what += "s" * (what == "problem" and len(found) != 1)
    return f"{len(found)} {what}: {shown}" + (f"; and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else "")
