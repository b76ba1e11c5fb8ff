"""GPT review: a judge gives two answers points from 1 to 10, the reference's first; the figure is their ratio.

Items for `score`: "review" (the judge's text), "category". Rows for `averages`: "tuple" (two numbers; or "score"), and
"category" if there is one, as LLaVA's review files have them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from .result import Figure, Item, Scores, choose

Pair = tuple[float, float]
MAX_POINTS = 10.0
_FAILED: Pair = (-1.0, -1.0)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
# Two numbers and nothing else, but for a label like "Scores:", "/10" after each, and marks of bold text.
_PAIR = re.compile(r"(?:[^\W\d]+:\s*)?(\d+(?:\.\d+)?)(?:/10)?(?:\s*[,;|&]\s*|\s+(?:and\s+)?)(\d+(?:\.\d+)?)(?:/10)?\.?")


def _strict(review: str) -> Pair | None:
    """Read the first line with text, if it is two numbers from 0 to 10."""
    line = review.strip().partition("\n")[0].replace("*", "").strip("[]() \t\r")
    pair = _PAIR.fullmatch(line)
    points = (float(pair.group(1)), float(pair.group(2))) if pair else None
    return points if points and max(points) <= MAX_POINTS else None


def _llava(review: str) -> Pair | None:
    """Read as parse_score of LLaVA's eval_gpt_review_visual.py: two numbers with one space in the first line.

    NOTE: "8, 9" fails, as the comma becomes a second space.
    """
    parts = review.partition("\n")[0].replace(",", " ").split(" ")
    try:
        first, second = map(float, parts)
    except ValueError:
        return None
    return first, second


def _lmms(review: str) -> Pair | None:
    """Read as lmms-eval's tasks/llava-in-the-wild/utils.py: the first two numbers of the first line.

    NOTE: "Assistant 1: 8" reads as 1 and 8.
    """
    numbers = _NUMBER.findall(review.strip().partition("\n")[0])
    return (float(numbers[0]), float(numbers[1])) if len(numbers) >= 2 else None


_READERS: Mapping[str, Callable[[str], Pair | None]] = MappingProxyType(
    {"strict": _strict, "llava": _llava, "lmms": _lmms}
)
RULES = tuple(_READERS)


def parse(review: str, rule: str = "strict") -> Pair | None:
    """Return the points of the reference and of the model, or None if the rule finds no two numbers."""
    return choose(_READERS, rule)(review)


def points_or_failed(review: str, rule: str = "llava") -> Pair:
    """Return the points, or (-1, -1) without any, which is what review files of LLaVA hold."""
    return parse(review, rule) or _FAILED


@dataclass(frozen=True)
class Average:
    """Hold the mean points of the reference and of the model, rounded to 3 places as LLaVA rounds them."""

    reference: float
    model: float
    count: int

    @property
    def ratio(self) -> float:
        """Return the model's points in percent of the reference's. Raises ValueError if the reference has none."""
        if not self.reference:
            raise ValueError("The reference has 0 points on average: the ratio is not defined.")
        return self.model / self.reference * 100


def averages(rows: Sequence[Item], ignored: Sequence[int] = ()) -> dict[str, Average]:
    """Return the averages of review rows: of all ("all") and by category, sorted by name.

    ignored: question_ids to leave out. Source: summarize_gpt_review.py of LLaVA. NOTE: failed reviews, (-1, -1), count.
    """
    pairs: dict[str, list[Pair]] = {}
    for row in rows:
        if ignored and row["question_id"] in ignored:
            continue
        pair = row["tuple"] if "tuple" in row else row["score"]
        for name in {"all", row.get("category", "all")}:
            pairs.setdefault(name, []).append(pair)
    return {name: _average(members) for name, members in sorted(pairs.items())}


def _average(pairs: Sequence[Pair]) -> Average:
    first, second = (round(sum(pair[side] for pair in pairs) / len(pairs), 3) for side in (0, 1))
    return Average(first, second, len(pairs))


def lines(rows: Sequence[Item], title: str, ignored: Sequence[int] = ()) -> list[str]:
    """Return what summarize_gpt_review.py prints for a review file: category, ratio, ten times both means.

    title: the file's name without "gpt4_text_" and ".jsonl". Raises ValueError if a reference has 0 points.
    """
    found = averages(rows, ignored)
    tens = ((name, one.ratio, one.reference * 10, one.model * 10) for name, one in found.items())
    return [title, *(" ".join([name, *(str(round(x, 1)) for x in row)]) for name, *row in tens), "=" * 33]


def lines_v1(rows: Sequence[Item], title: str) -> list[str]:
    """Return what the first version of summarize_gpt_review.py prints: category, both means, ratio."""
    found = averages(rows)
    return [
        f"GPT-4 vs. {title}",
        *(f"{name} [{one.reference}, {one.model}] {round(one.ratio, 1)}" for name, one in found.items()),
        "=" * 33,
    ]


def score(items: Sequence[Item], rule: str = "strict") -> Scores:
    """Return ratios in percent, "ratio" of all and "ratio/CATEGORY", with ten times both means beside them.

    Failed reviews are left out of the means and counted, except under llava, where they enter as (-1, -1).
    """
    rows, num_failed = [], 0
    for item in items:
        pair = parse(item["review"], rule)
        num_failed += pair is None
        if pair is not None or rule == "llava":
            rows.append({**item, "tuple": pair or _FAILED})
    figures = {"ratio": Figure(None, 0)}
    for name, one in averages(rows).items():
        end = "" if name == "all" else f"/{name}"
        figures[f"ratio{end}"] = Figure(one.ratio if one.reference else None, one.count)
        figures[f"reference{end}"] = Figure(one.reference * 10, one.count)
        figures[f"model{end}"] = Figure(one.model * 10, one.count)
    return Scores("ratio", figures, len(items), num_failed)
