"""MME: two yes-or-no questions an image. A category scores 100 times accuracy plus 100 times accuracy of whole images.

Items: "prediction", "answer" (Yes or No), "category", "image" (its name; two questions each). Figures are MME's points:
at most 200 a category, 2000 for perception, 800 for cognition.
"""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from . import yes_no
from .result import Figure, Item, Scores, Verdict, choose, grouped

_READERS: Mapping[str, str] = MappingProxyType(
    {"official": "official_mme", "strict": "strict", "lmms": "lmms_mme", "vlmevalkit": "vlmevalkit"}
)
RULES = tuple(_READERS)
PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def parse(text: str, rule: str = "official") -> str | None:
    """Return "yes", "no", or None if the rule finds neither ("other" in MME's own tool)."""
    return yes_no.parse(text, choose(_READERS, rule))


def judge(item: Item, rule: str = "official") -> Verdict:
    """Compare one answer with the right one."""
    label = str(item["answer"]).lower().strip().removesuffix(".")
    if label not in ("yes", "no"):
        raise ValueError(f"Found the answer {item['answer']!r}, expected Yes or No.")
    parsed = parse(str(item["prediction"]), rule)
    return Verdict(parsed, float(parsed == label))


def points(items: Sequence[Item], rule: str = "official") -> Figure:
    """Return the points of one category. Raises ValueError if an image does not have exactly two questions."""
    images: dict[str, list[float]] = {}
    for item in items:
        images.setdefault(str(item["image"]), []).append(judge(item, rule).credit)
    for name, credits in images.items():
        if len(credits) != 2:
            raise ValueError(f"Image {name!r} has {len(credits)} questions, expected 2.")
    num_right = sum(sum(credits) for credits in images.values())
    num_whole = sum(sum(credits) == 2 for credits in images.values())
    # In this order, as MME's tool adds them: its printed digits come out.
    return Figure(num_right / len(items) * 100 + num_whole / len(images) * 100, len(items))


def score(items: Sequence[Item], rule: str = "official") -> Scores:
    """Return the points of each category, and the sums "perception", "cognition" and "total".

    A sum is over the categories that have items; a note names those that are missing. An image with an
    answer to one question only is left out, and counted in a note.
    """
    items, num_halves = _whole(items)
    categories = {name: points(members, rule) for name, members in grouped(items, "category").items()}
    unknown = set(categories) - {*PERCEPTION, *COGNITION}
    if unknown:
        raise ValueError(f"Unknown categories of MME: {', '.join(sorted(unknown))}.")
    figures = {}
    for name, members in (("perception", PERCEPTION), ("cognition", COGNITION)):
        figures[name] = _sum([categories[member] for member in members if member in categories])
    figures["total"] = _sum([figure for figure in figures.values() if figure.count])
    missing = [name for name in (*PERCEPTION, *COGNITION) if name not in categories]
    notes = (f"no items of {', '.join(missing)}: the sums are over the other categories",) if missing else ()
    if num_halves:
        notes += (f"left out, because the other question of the image has no answer: {num_halves}",)
    num_failed = sum(judge(item, rule).is_failed for item in items)
    return Scores("perception", {**figures, **categories}, len(items), num_failed, notes)


def _whole(items: Sequence[Item]) -> tuple[list[Item], int]:
    """Return the items of images with more than one question, and the number of the others."""
    counts = Counter((item["category"], str(item["image"])) for item in items)
    whole = [item for item in items if counts[item["category"], str(item["image"])] > 1]
    return whole, len(items) - len(whole)


def _sum(figures: Sequence[Figure]) -> Figure:
    """Add points one after the other, as MME's tool does. NOTE: sum() adds more exactly from Python 3.12 on."""
    total = functools.reduce(operator.add, (figure.value for figure in figures), 0.0)
    return Figure(total if figures else None, sum(figure.count for figure in figures))


def lines(scores: Scores) -> list[str]:
    """Return what MME's calculation.py prints, without its blank lines and indents."""
    printed = []
    for title, sum_name, members in (("Perception", "perception", PERCEPTION), ("Cognition", "cognition", COGNITION)):
        printed += [f"=========== {title} ===========", f"total score: {scores.value(sum_name)}"]
        printed += [f"{name}  score: {scores.value(name)}" for name in members]
    return printed
