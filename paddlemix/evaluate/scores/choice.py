"""Accuracy of other multiple-choice sets: AI2D, MMStar, SEED-Bench's images, ScienceQA's table, RealWorldQA.

Items: "prediction", "answer" (letter), "options" (texts by letter), "category" and "l2_category" for groups. A
RealWorldQA answer may be a word instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from . import letters
from .exact_match import is_equal
from .result import Figure, Item, Scores, Verdict, choose, mean, mean_credit

RULES = ("strict", "vlmevalkit", "lmms_ai2d", "lmms_extract", "exact")
_LETTER_AND_PERIOD = re.compile(r"\s*([A-Z])\.")


def parse(text: str, options: letters.Options, rule: str = "strict") -> str | None:
    """Return the letter that a rule reads, or None.

    lmms_ai2d (tasks/ai2d/utils.py): a capital letter and a period at the start, else the whole text, which is compared
    without case and ASCII punctuation.
    """
    choose(dict.fromkeys(RULES, True), rule)
    if rule == "lmms_ai2d":
        leading = _LETTER_AND_PERIOD.match(text)
        return leading.group(1) if leading else text
    return letters.parse(text, options, rule)


def judge(item: Item, rule: str = "strict") -> Verdict:
    """Score one answer."""
    answer = str(item["answer"])
    parsed = parse(str(item["prediction"]), item.get("options", {}), rule)
    is_right = is_equal(parsed, answer) if rule == "lmms_ai2d" else parsed == answer
    return Verdict(parsed, float(is_right))


def score(items: Sequence[Item], rule: str = "strict") -> Scores:
    """Return the accuracy, overall and by category and l2_category, and the mean over categories.

    "mean_of_categories" is MMStar's figure, whose six categories have equal sizes.
    """
    scores = mean_credit(items, lambda item: judge(item, rule), ("category", "l2_category"))
    by_category = [figure.value for name, figure in scores.figures.items() if name.startswith("accuracy/category/")]
    figures: dict[str, Figure] = {**scores.figures, "mean_of_categories": mean(by_category)}
    return Scores("accuracy", figures, scores.num_items, scores.num_failed)


def judge_realworldqa(item: Item) -> Verdict:
    """Score an answer to RealWorldQA: the strict letter if the right answer is one of A to D, else an equal text.

    Texts are equal without case, outer white space and final periods.
    """
    text, answer = str(item["prediction"]), str(item["answer"]).strip()
    if answer in tuple("ABCD"):
        parsed = letters.read_strict(text, item.get("options") or dict.fromkeys("ABCD", ""))
        return Verdict(parsed, float(parsed == answer))
    plain = [one.lower().strip().rstrip(".") for one in (text, answer)]
    return Verdict(plain[0], float(plain[0] == plain[1]))


def score_realworldqa(items: Sequence[Item]) -> Scores:
    """Return the accuracy on RealWorldQA."""
    return mean_credit(items, judge_realworldqa)
