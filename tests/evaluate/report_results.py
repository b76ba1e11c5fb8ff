"""Results of tasks for tests of reports: questions, answers and images made in memory."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

from PIL import Image

from paddlemix.evaluate.item import Loaded, Problem, Question
from paddlemix.evaluate.results import Saved, TaskResult
from paddlemix.evaluate.scoring import score_task
from paddlemix.evaluate.tasks import task_of


@dataclass
class Drawn:
    """An image in memory that counts how often it was read."""

    content: bytes
    reads: list[int] = field(default_factory=list)

    def __call__(self) -> bytes:
        self.reads.append(1)
        return self.content


def drawn(color: str = "red", size: tuple[int, int] = (640, 400)) -> Drawn:
    """Return an image of one color. size: (width, height) px."""
    return bitmap(Image.new("RGB", size, color))


def bitmap(image: Image.Image) -> Drawn:
    """Return an image as a file in memory."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return Drawn(file.getvalue())


def asked(name: str, text: str, *images: Drawn, has_ocr: bool | None = None, **fields) -> Question:
    """Return a question with its images in front."""
    pieces = ("", *["\n"] * (len(images) - 1), "\n" + text) if images else (text,)
    return Question(name, pieces, images, fields, has_ocr=has_ocr)


def custom_result(num: int, num_right: int, *, category: str = "", images: tuple[Drawn, ...] = ()) -> TaskResult:
    """Return a result of "custom" with questions q0, q1 ...; the last ones are right."""
    kinds = {"category": category} if category else {}
    questions = tuple(
        asked(f"q{place}", f"Which is {place}?", *images, answers=["yes"], **kinds) for place in range(num)
    )
    texts = ["no"] * (num - num_right) + ["yes"] * num_right
    saved = {one.id: Saved(text) for one, text in zip(questions, texts, strict=True)}
    return score_task(task_of("custom"), Loaded(questions), saved, style="llava")


def pope_result(problems: tuple[Problem, ...] = ()) -> TaskResult:
    """Return a result of POPE with a right, a wrong and a failed answer, and a question that could not be asked."""
    rows = [("a", "Yes", "yes"), ("b", "Yes", "no"), ("c", "Perhaps.", "yes"), ("d", None, "no")]
    questions = tuple(asked(name, "Is there a cat?", answer=label, category="random") for name, _, label in rows)
    saved = {name: Saved(text, "" if text else "the image is broken") for name, text, _ in rows}
    return score_task(task_of("pope"), Loaded(questions, problems), saved, rule="strict", style="llava")


def result_of(task: str, questions: list[Question], texts: list[str], judgement: tuple[str, ...] = (), **settings):
    """Return the result of a task with one answer to each question."""
    saved = {one.id: Saved(text, judgement=judgement) for one, text in zip(questions, texts, strict=True)}
    return score_task(task_of(task), Loaded(tuple(questions)), saved, **settings)
