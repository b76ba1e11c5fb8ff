"""MM-Vet: a judge grades every answer from 0.0 to 1.0; figures are means over items that need a capability.

Items: "grades" (the judge's texts, one for each run), "capabilities" (of rec, ocr, know, gen, spat, math). Figures are
in percent, as MM-Vet's tables are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from .result import Figure, Item, Scores, Verdict, choose

RULES = ("official", "strict", "vlmevalkit")
CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
_GRADE = re.compile(r"(?:0(?:\.\d+)?|1(?:\.0+)?)\.?")


def parse(text: str, rule: str = "official") -> float | None:
    """Return the grade in a judge's answer, or None if there is none from 0 to 1.

    official (MM-Vet's mm-vet_evaluator): the number before the first space. vlmevalkit: the whole text is the number.
    strict: the whole text is a number written as 0.x or 1.0. All three ask the judge again after None, and count 0 in
    the end.
    """
    stripped = text.strip()
    candidate = choose({"official": text.split(" ")[0], "strict": stripped, "vlmevalkit": text}, rule).strip()
    if rule == "strict" and not _GRADE.fullmatch(candidate):
        return None
    try:
        grade = float(candidate.removesuffix(".") if rule == "strict" else candidate)
    except ValueError:
        return None
    return grade if 0.0 <= grade <= 1.0 else None


def judge(item: Item, rule: str = "official") -> Verdict:
    """Return the mean grade over runs. A run without a grade counts as 0; without any grade the item is failed."""
    grades = [parse(text, rule) for text in item["grades"]]
    if not grades:
        return Verdict(None, 0.0)
    average = math.fsum(grade or 0.0 for grade in grades) / len(grades)
    return Verdict(None if all(grade is None for grade in grades) else average, average)


def score(items: Sequence[Item], rule: str = "official") -> Scores:
    """Return the total, each capability, and each set of capabilities that occurs ("ocr+spat"), in percent."""
    credits: dict[str, list[float]] = {"total": [], **{name: [] for name in CAPABILITIES}}
    num_failed = 0
    for item in items:
        verdict = judge(item, rule)
        num_failed += verdict.is_failed
        unknown = set(item["capabilities"]) - set(CAPABILITIES)
        if unknown:
            raise ValueError(f"Unknown capabilities of MM-Vet: {', '.join(sorted(unknown))}.")
        needed = [name for name in CAPABILITIES if name in item["capabilities"]]
        # A single capability is its own set; the prefix keeps the two apart.
        for name in ("total", *needed, "set/" + "+".join(needed)):
            credits.setdefault(name, []).append(verdict.credit)
    figures = {name: _percent(values) for name, values in credits.items()}
    return Scores("total", figures, len(items), num_failed)


def _percent(credits: Sequence[float]) -> Figure:
    return Figure(100 * math.fsum(credits) / len(credits) if credits else None, len(credits))
