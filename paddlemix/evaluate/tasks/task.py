"""What a task is: its files, its prompts and its scorer; and how its questions are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ...terminal.near_paths import did_you_mean
from ..item import ImageFile, Loaded, Problem, Question
from ..prompts import STYLES, Style, ask
from ..readers.rows import Files, Read
from ..scores.result import Item, Scores, Verdict

Names = tuple[str, ...]  # alternatives
Texts = Mapping[str, str]  # answers by id
Writer = Callable[[Path, Sequence[Question], Texts], None]


@dataclass(frozen=True)
class Source:
    """Files that a task can be read from, by role; each has one or more names, relative to the data folder.

    A name that ends with "/" is a folder. optional: files that are used if they are there. images: folders to look for
    images in.
    """

    reader: Callable[[Files], Read]
    files: Mapping[str, Names]
    optional: Mapping[str, Names] = field(default_factory=dict)
    images: Names = ()


@dataclass(frozen=True)
class Scorer:
    """The functions of a metric; judge is None where single answers have no score of their own."""

    rules: Names
    score: Callable[[Sequence[Item], str], Scores]
    judge: Callable[[Item, str], Verdict] | None = None

    @classmethod
    def of(cls, module: ModuleType, has_judge: bool = True) -> Scorer:
        """Return the scorer of a file in scores/."""
        return cls(module.RULES, module.score, module.judge if has_judge else None)


@dataclass(frozen=True)
class Task:
    """A benchmark.

    sources: the first whose files are there is read. folders: below the data folder, in which files are looked for,
    too. styles: prompts by the project's name, the default first. rule: the scorer's default. needs: key of the right
    answer in the fields. has_judge: whether a judge model reads the answers first; it gets the fields. submission:
    writes the file that the benchmark's server takes; its name is `submission_name`. check: raises ValueError for a
    question whose right answer a rule cannot use, where users write the questions. unanswered: what is said of
    questions without a right answer.
    """

    name: str
    description: str
    sources: tuple[Source, ...]
    styles: Mapping[str, Style]
    scorer: Scorer
    rule: str
    needs: str
    folders: Names = ()
    has_judge: bool = False
    submission: Writer | None = None
    submission_name: str = ""
    check: Callable[[Item, str], None] | None = None
    unanswered: str = "have no right answer in the files; their answers can be submitted"

    def style(self, name: str | None = None) -> Style:
        """Return a prompt style, the default without a name. Raises ValueError that names those that the task has."""
        if name is None:
            return next(iter(self.styles.values()))
        if name not in self.styles:
            what = "has no prompt style" if name in STYLES else "does not know the prompt style"
            raise ValueError(f"{self.name} {what} {name!r}; it has {', '.join(self.styles)}")
        return self.styles[name]

    def expected(self, needs_images: bool = True) -> str:
        """Return the files that the task is read from, for help and errors, with "or" between sources."""
        return "; or ".join(_names_of(source, needs_images) for source in self.sources)


def _names_of(source: Source, needs_images: bool) -> str:
    names = [" or ".join(names) for names in source.files.values()]
    names += [f"{' or '.join(names)} (if there is one)" for names in source.optional.values()]
    if source.images and needs_images:
        names.append(f"images in {' or '.join(f'{name}/' for name in source.images)}")
    return ", ".join(names)


def load(
    task: Task,
    data_dir: str | Path,
    style: str | None = None,
    ocr: bool | None = None,
    needs_images: bool = True,
) -> Loaded:
    """Read the questions of a task, in the order of its files, and what is wrong with the others.

    data_dir: the folder with the files as downloaded, or one file of questions. ocr: see `ask`. needs_images: whether a
    question whose image file is missing is a problem; to score answers it is none. Raises ValueError if
    files are missing or not of the right form, or the task does not have the style.
    """
    chosen = task.style(style)
    source, files = find(task, Path(data_dir), needs_images)
    if chosen.has_ocr if ocr is None else ocr:
        _check_ocr(task, chosen, files)
    questions: list[Question] = []
    problems: list[Problem] = []
    for record in source.reader(files):
        if isinstance(record, Problem):
            problems.append(record)
            continue
        try:
            question = ask(record, chosen, ocr)
            if needs_images:
                _check_images(question)
            questions.append(question)
        except ValueError as error:
            problems.append(Problem(record.where, str(error), record.id))
    return Loaded(
        tuple(questions),
        tuple(problems),
        tuple(path for role, path in files.items() if role != "images" and path.is_file()),
    )


def _check_images(question: Question) -> None:
    """Raise ValueError for an image file that is missing."""
    for image in question.images:
        if isinstance(image, ImageFile):
            image()


def _check_ocr(task: Task, style: Style, files: Files) -> None:
    """Raise ValueError if a prompt with OCR tokens cannot be made."""
    if style.ocr_text is None:
        raise ValueError(f"{task.name} has no prompt with OCR tokens in this style")
    if "ocr" not in files:
        names = (name for source in task.sources for name in source.optional.get("ocr", ()))
        raise ValueError(
            f"the prompt has OCR tokens, and there is no {' or '.join(names)} beside {files['questions'].name}: "
            "add it, or ask without OCR tokens"
        )


def find(task: Task, data_dir: Path, needs_images: bool = True) -> tuple[Source, dict[str, Any]]:
    """Return the first source of a task whose files are there, and their paths by role.

    Raises ValueError that names the files of every source if none is complete, and their images if they are needed.
    """
    if data_dir.is_file():
        return _named(task, data_dir)
    if not data_dir.is_dir():
        expected = f"expected a folder with {task.expected(needs_images)}"
        raise ValueError(f"{data_dir} does not exist: {expected}{did_you_mean(data_dir)}")
    places = [data_dir, *(data_dir / name for name in (task.name, *task.folders))]
    for source in task.sources:
        found = {role: _first(places, names) for role, names in source.files.items()}
        if all(found.values()):
            return source, _completed(source, found, places)
    raise ValueError(
        f"{data_dir} has not the files of {task.name}: expected {task.expected(needs_images)}; they may be in a folder "
        f"{' or '.join(f'{name}/' for name in (task.name, *task.folders))} of it"
    )


def _named(task: Task, path: Path) -> tuple[Source, dict[str, Any]]:
    """Return the first source whose questions have the ending of a file that the user names."""
    places = [path.parent]
    for source in task.sources:
        names = source.files.get("questions", ())
        found = {role: _first(places, names) for role, names in source.files.items()}
        if any(Path(name).suffix == path.suffix for name in names) and all({**found, "questions": path}.values()):
            return source, _completed(source, {**found, "questions": path}, places)
    raise ValueError(f"{path} is no file of questions of {task.name}: expected {task.expected()}")


def _completed(source: Source, found: Mapping[str, Path | None], places: Sequence[Path]) -> dict[str, Any]:
    """Add optional files, and the folders in which images may be: beside the questions first."""
    files: dict[str, Any] = {role: path for role, path in found.items() if path is not None}
    for role, names in source.optional.items():
        path = _first(places, names)
        if path is not None:
            files[role] = path
    beside = next(iter(files.values())).parent
    folders = [place / name for place in dict.fromkeys((beside, *places)) for name in source.images]
    return {**files, "images": (*(folder for folder in folders if folder.is_dir()), beside)}


def _first(places: Iterable[Path], names: Names) -> Path | None:
    """Return the first path that exists; one whose name ends with "/" is a folder."""
    candidates = ((place / name, name.endswith("/")) for place in places for name in names)
    return next((path for path, is_folder in candidates if (path.is_dir() if is_folder else path.is_file())), None)


def without_answer(task: Task, questions: Sequence[Question]) -> list[Question]:
    """Return the questions whose right answer the files do not tell, as in test sets. They cannot be scored here."""
    return [question for question in questions if task.needs not in question.fields]


def scored(questions: Sequence[Question], texts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the scorer's items of the questions that have an answer."""
    return [item for one in questions if one.id in texts for item in one.scored(texts[one.id])]
