"""HallusionBench: accuracy over questions (aAcc), over figures (fAcc) and over questions across figures (qAcc).

Items: "index" (CATEGORY_SUBCATEGORY_X_SET_FIGURE_QUESTION), "prediction", "answer" (Yes or No), "category",
"l2-category". Source: Hallusion_rating of VLMEvalKit's yorn.py; lmms-eval asks a judge instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import yes_no
from .result import Figure, Item, Scores, Verdict, grouped, mean

RULES = ("vlmevalkit", "strict")


def parse(text: str, rule: str = "vlmevalkit") -> str | None:
    """Return "yes", "no", or None if the rule finds neither."""
    return yes_no.parse(text, rule)


def judge(item: Item, rule: str = "vlmevalkit") -> Verdict:
    """Score one answer."""
    parsed = parse(str(item["prediction"]), rule)
    return Verdict(parsed, float(parsed == str(item["answer"]).lower().strip()))


def accuracies(items: Sequence[Item], verdicts: Sequence[bool]) -> dict[str, Figure]:
    """Return aAcc over rows, fAcc over sets and figures, and qAcc over sets and questions that are all right."""
    by_figure: dict[tuple, list[bool]] = {}
    by_question: dict[tuple, list[bool]] = {}
    for item, is_right in zip(items, verdicts, strict=True):
        parts = str(item["index"]).split("_")
        if len(parts) < 6:
            raise ValueError(f"Found the index {item['index']!r}, expected six parts joined by underscores.")
        where = (item["l2-category"], parts[3])
        by_figure.setdefault((*where, parts[4]), []).append(is_right)
        by_question.setdefault((*where, parts[5]), []).append(is_right)
    return {
        "aAcc": mean(verdicts),
        "fAcc": mean(all(rows) for rows in by_figure.values()),
        "qAcc": mean(all(rows) for rows in by_question.values()),
    }


def score(items: Sequence[Item], rule: str = "vlmevalkit") -> Scores:
    """Return the three accuracies, overall and as "aAcc/NAME" for each category and subcategory."""
    judged = [judge(item, rule) for item in items]
    rows = [{**item, "_right": verdict.credit == 1} for item, verdict in zip(items, judged, strict=True)]
    figures = accuracies(rows, [row["_right"] for row in rows])
    for key in ("category", "l2-category"):
        for name, members in grouped(rows, key).items():
            part = accuracies(members, [row["_right"] for row in members])
            figures |= {f"{kind}/{name}": figure for kind, figure in part.items()}
    return Scores("aAcc", figures, len(items), sum(verdict.is_failed for verdict in judged))
