"""What scorers return: the verdict on one answer, and the figures of a set with their counts."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Item = Mapping[str, Any]
Chosen = TypeVar("Chosen")


@dataclass(frozen=True)
class Verdict:
    """Hold what a rule made of one answer.

    parsed: what it read in the text; None if it found no answer. credit: from 0 (wrong) to 1 (right).
    """

    parsed: Any
    credit: float

    @property
    def is_failed(self) -> bool:
        """Return whether the rule found no answer."""
        return self.parsed is None


@dataclass(frozen=True)
class Figure:
    """Hold a figure and the number of items, or groups of items, that it is made of.

    value: None where it is not defined, as a precision without positive answers.
    """

    value: float | None
    count: int


@dataclass(frozen=True)
class Scores:
    """Hold the figures of a set.

    main: name of the figure that papers report. figures: by name, "accuracy" or "accuracy/CATEGORY"; fractions of 1
    unless the file of the metric says otherwise. num_failed: answers in which the rule found nothing; they count as
    wrong, except where the file of the metric excludes them. notes: what a reader of the figures has to know.
    """

    main: str
    figures: Mapping[str, Figure]
    num_items: int
    num_failed: int = 0
    notes: tuple[str, ...] = ()

    def value(self, name: str = "") -> float | None:
        """Return the value of a figure, of the main one without a name."""
        return self.figures[name or self.main].value


def choose(rules: Mapping[str, Chosen], name: str) -> Chosen:
    """Return what a table of rules holds under a name. Raises ValueError with the known names."""
    if name in rules:
        return rules[name]
    near = difflib.get_close_matches(name, rules, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"Unknown rule {name!r}; known are {', '.join(rules)}.{hint}")


def mean(values: Iterable[float]) -> Figure:
    """Return the mean of values, exact up to the last rounding, so that their order does not matter."""
    values = list(values)
    return Figure(math.fsum(values) / len(values) if values else None, len(values))


def grouped(items: Iterable[Item], key: str) -> dict[str, list[Item]]:
    """Return items by the value of a key, sorted; items without it are left out."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        if item.get(key) is not None:
            groups.setdefault(str(item[key]), []).append(item)
    return dict(sorted(groups.items()))


def mean_credit(
    items: Sequence[Item], judge: Callable[[Item], Verdict], keys: Sequence[str] = (), main: str = "accuracy"
) -> Scores:
    """Judge items one by one and return the mean credit, overall and for each value of each of the keys.

    Figures: `main`, and "main/VALUE" for one key, "main/KEY/VALUE" for several.
    """
    judged = [{**item, "_verdict": judge(item)} for item in items]
    figures = {main: mean(item["_verdict"].credit for item in judged)}
    for key in keys:
        prefix = f"{main}/{key}/" if len(keys) > 1 else f"{main}/"
        for name, members in grouped(judged, key).items():
            figures[prefix + name] = mean(item["_verdict"].credit for item in members)
    num_failed = sum(item["_verdict"].is_failed for item in judged)
    return Scores(main, figures, len(judged), num_failed)
