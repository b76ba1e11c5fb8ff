"""Boxes of RefCOCO, RefCOCO+ and RefCOCOg: the share of boxes that overlap the right one by at least one half.

Items: "prediction", "box" (left, top, right, bottom, as fractions of the image's width and height), "category" for
splits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .result import Item, Scores, Verdict, choose, mean, mean_credit

RULES = ("strict", "lmms")
THRESHOLD = 0.5

Box = tuple[float, float, float, float]

_NUMBER = r"\s*(-?\d*\.?\d+)\s*"
_BRACKETED = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")


def parse(text: str, rule: str = "strict") -> Box | None:
    """Return the box in an answer, as fractions, or None.

    lmms (tasks/refcoco/utils_rec.py): the first four numbers in square brackets. strict: the only such four, and they
    are a box within the image: 0 <= left < right <= 1, 0 <= top < bottom <= 1.
    """
    found = [tuple(map(float, groups)) for groups in _BRACKETED.findall(text)]
    if not found:
        choose(dict.fromkeys(RULES, True), rule)
        return None
    return choose({"strict": _checked(found), "lmms": found[0]}, rule)


def _checked(found: Sequence[Box]) -> Box | None:
    if len(set(found)) != 1:
        return None
    left, top, right, bottom = found[0]
    return found[0] if 0 <= left < right <= 1 and 0 <= top < bottom <= 1 else None


def overlap(first: Box, second: Box) -> float:
    """Return the intersection over the union of two boxes (left, top, right, bottom); 0 if they do not overlap."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    union = _area(first) + _area(second) - shared
    return shared / union if union > 0 else 0.0


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def judge(item: Item, rule: str = "strict") -> Verdict:
    """Score one answer: 1 if its box overlaps the right one by at least one half. An answer without a box is wrong."""
    box = parse(str(item["prediction"]), rule)
    return Verdict(box, float(box is not None and overlap(box, tuple(item["box"])) >= THRESHOLD))


def score(items: Sequence[Item], rule: str = "strict") -> Scores:
    """Return Acc@0.5, overall and by category, and the mean overlap."""
    scores = mean_credit(items, lambda item: judge(item, rule), ("category",), main="Acc@0.5")
    found = [(parse(str(item["prediction"]), rule), tuple(item["box"])) for item in items]
    overlaps = mean(overlap(box, right) if box else 0.0 for box, right in found)
    return Scores("Acc@0.5", {**scores.figures, "mean_overlap": overlaps}, scores.num_items, scores.num_failed)
