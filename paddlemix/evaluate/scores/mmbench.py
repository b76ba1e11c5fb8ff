"""MMBench, MMBench-CN and CCBench: accuracy where a question counts only if all rotations of its options are right.

Items: "index" (of the TSV; base + rotation x 1,000,000), "prediction", "answer" (letter), "options" (texts by letter,
absent ones left out), and for figures by group "category", "l2-category", "split".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from . import letters
from .result import Item, Scores, Verdict, choose, grouped, mean

ROTATION = 1_000_000
_READERS: Mapping[str, str] = MappingProxyType(
    {"strict": "strict", "xtuner": "xtuner", "vlmevalkit": "vlmevalkit", "lmms": "lmms_mmbench"}
)
RULES = tuple(_READERS)
ABBREVIATIONS: Mapping[str, str] = MappingProxyType(
    {
        "coarse_perception": "CP",
        "finegrained_perception (instance-level)": "FP-S",
        "finegrained_perception (cross-instance)": "FP-C",
        "attribute_reasoning": "AR",
        "logic_reasoning": "LR",
        "relation_reasoning": "RR",
    }
)


def parse(text: str, options: letters.Options, rule: str = "strict") -> str | None:
    """Return the letter of an option, or None if the rule finds none."""
    return letters.parse(text, options, choose(_READERS, rule))


def judge(item: Item, rule: str = "strict") -> Verdict:
    """Score one row. Projects read a missing prediction (None, or NaN as in a table) as "nan"; strict fails it."""
    prediction = item["prediction"]
    is_missing = prediction is None or (isinstance(prediction, float) and math.isnan(prediction))
    missing = "" if rule == "strict" else "nan"
    parsed = parse(missing if is_missing else str(prediction), item["options"], rule)
    return Verdict(parsed, float(parsed == item["answer"]))


def hits(items: Sequence[Item], rule: str = "strict") -> dict[int, bool]:
    """Return for each question whether all its rows are right, by the index of its first rotation.

    NOTE: questions without their first rotation are left out, and missing rotations are not noticed, as in VLMEvalKit,
    xtuner and lmms-eval; `score` reports them.
    """
    return {index: all(judge(row, rule).credit for row in rows) for index, rows in _questions(items).items()}


def _questions(items: Sequence[Item]) -> dict[int, list[Item]]:
    """Return the rows by question. Raises ValueError for an index that occurs twice."""
    rows: dict[int, Item] = {}
    for item in items:
        index = int(item["index"])
        if index in rows:
            raise ValueError(f"Index {index} occurs twice.")
        rows[index] = item
    questions: dict[int, list[Item]] = {index: [] for index in sorted(rows) if index < ROTATION}
    for index in sorted(rows):
        if index % ROTATION in questions:
            questions[index % ROTATION].append(rows[index])
    return questions


def score(items: Sequence[Item], rule: str = "strict") -> Scores:
    """Return circular accuracy: overall, by l2-category (abbreviated), category and split; and "vanilla".

    vanilla is the accuracy of the first rotations alone. A question has the categories of its first rotation.
    """
    right = hits(items, rule)
    questions = _questions(items)
    bases = [{**questions[index][0], "_right": is_right} for index, is_right in right.items()]
    figures = {
        "circular": mean(base["_right"] for base in bases),
        "vanilla": mean(judge(base, rule).credit for base in bases),
    }
    for key in ("l2-category", "category", "split"):
        for name, members in grouped(bases, key).items():
            label = ABBREVIATIONS.get(name, name) if key == "l2-category" else name
            figures[f"circular/{key}/{label}"] = mean(member["_right"] for member in members)
    num_failed = sum(judge(item, rule).is_failed for item in items)
    return Scores("circular", figures, len(items), num_failed, _notes(items, questions))


def _notes(items: Sequence[Item], questions: Mapping[int, Sequence[Item]]) -> tuple[str, ...]:
    """Report rows without a first rotation, and rotated questions with fewer rows than options."""
    num_rows = sum(len(rows) for rows in questions.values())
    num_short = sum(1 < len(rows) < len(rows[0]["options"]) for rows in questions.values())
    num_single = sum(len(rows) == 1 for rows in questions.values())
    notes = []
    if num_rows < len(items):
        notes.append(
            f"rows not scored, because the first rotation of their question is missing: {len(items) - num_rows}"
        )
    if num_short:
        num_questions = f"{num_short} question{' has' if num_short == 1 else 's have'}"
        notes.append(f"{num_questions} fewer rotations than options")
    if 0 < num_single < len(questions):
        num_questions = f"{num_single} question{' has' if num_single == 1 else 's have'}"
        notes.append(f"{num_questions} no rotations, others do")
    return tuple(notes)
