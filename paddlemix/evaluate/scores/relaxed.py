"""Relaxed accuracy of ChartQA: numbers within 5% of the target, other answers equal without case.

Items: "prediction", "answer"; "category" for the halves (human, augmented).
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from .result import Item, Scores, Verdict, choose, mean_credit

RULES = ("lmms", "vlmevalkit")
TOLERANCE = 0.05


def number_of(text: str) -> float | None:
    """Return the number that a text is ("5", "1e3", "nan"), a percentage as its hundredth; None if it is none."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def is_right(prediction: str, target: str) -> bool:
    """Return whether a prediction is within 5% of the target, or equal without case if the target is 0 or no number.

    Source: relaxed_correctness of google-research/pix2struct, metrics.py. NOTE: years are numbers, so 2010 is right for
    2000; "10" is wrong for "10%".
    """
    number, expected = number_of(prediction), number_of(target)
    if number is None or not expected:
        return prediction.lower() == target.lower()
    return abs(number - expected) / abs(expected) <= TOLERANCE


def parse(text: str, rule: str = "lmms") -> str:
    """Return the text that is compared. Every text is an answer, so nothing fails."""
    return choose({"lmms": text, "vlmevalkit": text.strip()}, rule)


def judge(item: Item, rule: str = "lmms") -> Verdict:
    """Compare a prediction with its target.

    lmms (lmms-eval's chartqa): the texts as they are. vlmevalkit (vqa_eval.py): strips the prediction, and takes a
    target that is written as a Python list as a list of targets.
    """
    text, target = parse(str(item["prediction"]), rule), item["answer"]
    targets = _listed(target) if rule == "vlmevalkit" else [target]
    return Verdict(text, float(any(is_right(text, str(one)) for one in targets)))


def _listed(target: object) -> list:
    """Return a target that is a list, or text that is one in Python, as a list; any other as its only element."""
    if isinstance(target, str) and target.lstrip().startswith("["):
        try:
            target = ast.literal_eval(target.strip())
        except (ValueError, SyntaxError):
            return [target]  # brackets in a plain text
    return list(target) if isinstance(target, list) else [target]


def score(items: Sequence[Item], rule: str = "lmms") -> Scores:
    """Return the accuracy, overall and for each half. With two halves of a size, the overall value is their mean."""
    return mean_credit(items, lambda item: judge(item, rule), ("category",))
