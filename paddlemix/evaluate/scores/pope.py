"""POPE: is there an object in the image? F1 with yes as the positive class, by category (random, popular, adversarial).

Items: "prediction", "answer" (yes or no), "category". Every item carries its own label, so that the order does not
matter; LLaVA's eval_pope.py pairs answers with labels by their order alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from . import yes_no
from .result import Figure, Item, Scores, Verdict, choose, grouped, mean

_READERS: Mapping[str, str] = MappingProxyType(
    {"llava": "llava", "strict": "strict", "lmms": "lmms_pope", "vlmevalkit": "vlmevalkit"}
)
RULES = tuple(_READERS)


@dataclass(frozen=True)
class Confusion:
    """Count answers by label. failed_yes, failed_no: answers without yes or no, by their label."""

    true_yes: int
    false_yes: int
    true_no: int
    false_no: int
    failed_yes: int = 0
    failed_no: int = 0

    @property
    def total(self) -> int:
        """Return the number of answers."""
        return self.true_yes + self.false_yes + self.true_no + self.false_no + self.failed_yes + self.failed_no


def parse(text: str, rule: str = "llava") -> str | None:
    """Return "yes", "no", or None if the rule finds neither (llava always finds one)."""
    return yes_no.parse(text, choose(_READERS, rule))


def judge(item: Item, rule: str = "llava") -> Verdict:
    """Compare one answer with its label."""
    parsed = parse(str(item["prediction"]), rule)
    return Verdict(parsed, float(parsed == _label(item)))


def confusion(items: Sequence[Item], rule: str = "llava") -> Confusion:
    """Count the answers of a set by label and reading."""
    pairs = [(parse(str(item["prediction"]), rule), _label(item)) for item in items]
    cells = [("yes", "yes"), ("yes", "no"), ("no", "no"), ("no", "yes"), (None, "yes"), (None, "no")]
    return Confusion(*(pairs.count(cell) for cell in cells))


def _label(item: Item) -> str:
    label = str(item["answer"]).lower().strip()
    if label not in ("yes", "no"):
        raise ValueError(f"Found the label {item['answer']!r}, expected yes or no.")
    return label


def figures_of(counts: Confusion, rule: str = "llava") -> dict[str, Figure]:
    """Return f1, accuracy, precision, recall and yes_ratio of a set.

    Without a positive answer precision and F1 are not defined: None under llava, where the original divides by zero,
    and 0 under the other rules. NOTE: lmms leaves failed answers out of the recall, and its yes_ratio is that of the
    labels (lmms-eval's tasks/pope/utils.py); the other rules count a failed answer to a "yes" as missed.
    """
    undefined = None if rule == "llava" else 0.0
    missed = counts.false_no + (0 if rule == "lmms" else counts.failed_yes)
    said_yes = counts.true_yes + counts.false_yes
    labels_yes = counts.true_yes + counts.false_no + counts.failed_yes
    precision = counts.true_yes / said_yes if said_yes else undefined
    recall = counts.true_yes / (counts.true_yes + missed) if counts.true_yes + missed else undefined
    both = (precision or 0.0) + (recall or 0.0)
    values = {
        "f1": 2 * precision * recall / both if both else undefined,
        "accuracy": (counts.true_yes + counts.true_no) / counts.total if counts.total else None,
        "precision": precision,
        "recall": recall,
        "yes_ratio": (labels_yes if rule == "lmms" else said_yes) / counts.total if counts.total else None,
    }
    return {name: Figure(value, counts.total) for name, value in values.items()}


def score(items: Sequence[Item], rule: str = "llava") -> Scores:
    """Return f1 and the other figures for each category, over all items ("all"), and f1 as the mean of the categories.

    The mean of the three categories is what LLaVA's papers report.
    """
    figures: dict[str, Figure] = {}
    sets = grouped(items, "category")
    for category, members in sets.items():
        for name, figure in figures_of(confusion(members, rule), rule).items():
            figures[f"{name}/{category}"] = figure
    every = confusion(items, rule)
    figures |= {f"{name}/all": figure for name, figure in figures_of(every, rule).items()}
    by_category = [figures[f"f1/{category}"].value for category in sets] or [figures["f1/all"].value]
    main = Figure(None, len(by_category)) if None in by_category else mean(by_category)
    return Scores("f1", {"f1": main, **figures}, len(items), every.failed_yes + every.failed_no)


def lines(items: Sequence[Item]) -> list[str]:
    """Return what LLaVA's eval_pope.py prints for one category. Raises ValueError where it divides by zero."""
    counts = confusion(items, "llava")
    figures = figures_of(counts, "llava")
    f1, accuracy, precision, recall, ratio = (figure.value for figure in figures.values())
    if f1 is None:
        raise ValueError("No answer is a true yes: precision or F1 is not defined.")
    return [
        "TP\tFP\tTN\tFN\t",
        f"{counts.true_yes}\t{counts.false_yes}\t{counts.true_no}\t{counts.false_no}",
        f"Accuracy: {accuracy}",
        f"Precision: {precision}",
        f"Recall: {recall}",
        f"F1 score: {f1}",
        f"Yes ratio: {ratio}",
        f"{f1:.3f}, {accuracy:.3f}, {precision:.3f}, {recall:.3f}, {ratio:.3f}",
    ]
