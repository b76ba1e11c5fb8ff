"""SEED-Bench: accuracy by question type, over all questions, those on images and those on videos.

Items: "prediction", "answer" (letter), "question_type" (name), "data_type" (image or video), "options" for strict.
"""

from __future__ import annotations

from collections.abc import Sequence

from .letters import Options, read_strict
from .result import Item, Scores, Verdict, choose, mean_credit

RULES = ("llava", "lmms", "strict")


def parse(text: str, options: Options | None = None, rule: str = "llava") -> str | None:
    """Return the letter that a rule reads, None if there is none.

    llava (convert_seed_for_submission.py): the answer is the letter and nothing else. lmms (seedbench/utils.py): the
    first character that is not white space, in either case. strict: letters.py; without options it reads only letters.
    """
    letters = "ABCD"
    read = {
        "llava": text if len(text) == 1 and text in letters else None,
        "lmms": (text.strip()[:1].upper() or None),
        "strict": read_strict(text, options or dict.fromkeys(letters, "")),
    }
    return choose(read, rule)


def judge(item: Item, rule: str = "llava") -> Verdict:
    """Score one answer."""
    parsed = parse(str(item["prediction"]), item.get("options"), rule)
    return Verdict(parsed, float(parsed == item["answer"]))


def score(items: Sequence[Item], rule: str = "llava") -> Scores:
    """Return the accuracy, overall, by data type and by question type."""
    return mean_credit(items, lambda item: judge(item, rule), ("data_type", "question_type"))
