"""ANLS of DocVQA, InfoVQA and ST-VQA: one minus the normalized edit distance, zero below one half.

Items: "prediction", "answers" (references; the best one counts).
"""

from __future__ import annotations

from collections.abc import Sequence

from .result import Item, Scores, Verdict, choose, mean_credit

RULES = ("official", "lmms", "vlmevalkit", "stvqa")
THRESHOLD = 0.5


def edit_distance(first: str, second: str) -> int:
    """Return the Levenshtein distance: the least number of inserted, deleted and replaced characters."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def similarity(prediction: str, answer: str, rule: str = "official") -> float:
    """Return the similarity of a prediction to one reference, before the threshold.

    official (the organizers' script in OpenGVLab/InternVL, infographicsvqa_eval.py), lmms and vlmevalkit: the distance
    of the lower-case texts with single spaces, divided by the longer of the two texts as given. NOTE: so surplus spaces
    in a wrong answer raise its score. stvqa (LLaVA's m4c_evaluator.py): both only lower-case and stripped. Raises
    ValueError under stvqa if both are empty, where the original divides by zero.
    """
    choose(dict.fromkeys(RULES, True), rule)
    if rule == "stvqa":
        first, second = prediction.lower().strip(), answer.lower().strip()
        length = max(len(first), len(second))
        if not length:
            raise ValueError("Rule stvqa is not defined for an empty prediction and an empty answer.")
    else:
        first, second = (" ".join(text.lower().split()) for text in (prediction, answer))
        length = max(len(prediction.upper()), len(answer.upper()))
    return 1.0 - (edit_distance(first, second) / length if length else 0.0)


def parse(text: str, rule: str = "official") -> str:
    """Return the text that is compared. Every text is an answer, so nothing fails."""
    choose(dict.fromkeys(RULES, True), rule)
    return text


def judge(item: Item, rule: str = "official") -> Verdict:
    """Score one prediction against its best reference: its similarity, or 0 if that is below one half."""
    prediction = str(item["prediction"])
    if not item["answers"]:
        raise ValueError("A question has no reference answers.")
    best = max(similarity(prediction, str(answer), rule) for answer in item["answers"])
    return Verdict(prediction, best if best >= THRESHOLD else 0.0)


def score(items: Sequence[Item], rule: str = "official") -> Scores:
    """Return the mean over questions."""
    return mean_credit(items, lambda item: judge(item, rule), ("category",), main="anls")
