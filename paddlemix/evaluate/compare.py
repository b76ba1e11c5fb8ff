"""Compare the answers of two runs to the same questions of a task: is one better by more than chance?

The interval is that of paired differences: E. Miller, "Adding Error Bars to Evals" (arXiv:2411.00640), sections 2.2 and
4.2. The exact test is McNemar's (Psychometrika 12, 1947): a sign test on the questions that one run alone has right.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..terminal.sizes import plural
from ..terminal.visible import visible_line
from .comparable import check_scores, of_the_same_questions
from .item import Problem, named
from .readers.rows import json_lines

Rows = Mapping[str, Mapping[str, Any]]  # lines of an answers file by id
NORMAL_95 = 1.959963984540054  # 97.5% of a normal distribution are below it
ALPHA = 0.05
MIN_GROUPS = 30  # below it, the normal approximation says little
CIRCULAR = 1_000_000  # what MMBench adds to the index of a question for each rotation of its options
MAX_TEXT = 300  # characters of an answer that are shown


@dataclass(frozen=True)
class Change:
    """A question whose two outputs differ. credits: None where an output has no score of its own."""

    id: str
    prompt: str
    outputs: tuple[str, str]
    credits: tuple[float | None, float | None]


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common, and how the second differs from the first.

    num_scored: questions with a credit in both; all figures are of these. num_not_scored: answered in both, but one has
    no credit. num_only: answered in the first alone, and in the second alone. wins, losses: questions with a higher and
    a lower credit in the second. means: of credits. difference, interval: of the means, second minus first, with 95%;
    None without scored questions, or with a single group. num_groups: of questions that are not independent; as many as
    questions where the files name no groups. p_value: of McNemar's exact test, None unless every credit is 0 or 1.
    changes: questions in the order of the first file, those with another credit before the others.
    """

    num_scored: int
    num_not_scored: int
    num_only: tuple[int, int]
    wins: int
    losses: int
    means: tuple[float, float] | None
    difference: float | None
    interval: tuple[float, float] | None
    num_groups: int
    p_value: float | None
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_significant(self) -> bool | None:
        """Whether the difference is significant at 5%, None if that cannot be said.

        McNemar's test decides where it holds: credits of 0 and 1, and independent questions. Else the interval does.
        """
        if self.has_exact_test:
            return self.p_value < ALPHA
        return None if self.interval is None else not self.interval[0] <= 0 <= self.interval[1]

    @property
    def has_exact_test(self) -> bool:
        """Whether McNemar's test decides: credits are 0 and 1, and questions are independent."""
        return self.p_value is not None and self.num_groups == self.num_scored

    def verdict(self) -> str:
        """Return in words whether the difference is significant, and by what."""
        if self.is_significant is None:
            return "nothing can be said: too few questions have a score in both runs"
        decider = "by McNemar's test" if self.has_exact_test else "by the interval"
        if not self.is_significant:
            return f"not significant: chance alone can make such a difference ({decider})"
        return f"significant: the second run is {'better' if (self.difference or 0) > 0 else 'worse'} ({decider})"

    def summary(self) -> list[str]:
        """Return lines for a terminal: the figures, the verdict and what a reader has to know."""
        return [*self._figures(), *self.notes, *self._disagreement()]

    def _disagreement(self) -> Iterator[str]:
        """Yield why the interval seems to say something else than the test that decides, if it does."""
        if not self.has_exact_test or self.interval is None:
            return
        if self.is_significant == (self.interval[0] <= 0 <= self.interval[1]):
            holds = "holds" if self.is_significant else "does not hold"
            yield (
                f"note: the interval {holds} 0, but it assumes a normal distribution, which few changed answers do not "
                "have; McNemar's test is exact for any number of them, so it decides"
            )

    def _figures(self) -> Iterator[str]:
        yield f"{plural(self.num_scored, 'question')} scored in both runs"
        if any((*self.num_only, self.num_not_scored)):
            first, second = self.num_only
            yield (
                f"left out: {self.num_not_scored} without a score in one of them, {first} answered in the first alone, "
                f"{second} in the second alone"
            )
        if self.means is not None and self.difference is not None:
            yield f"mean credit: {self.means[0]:.4f} and {self.means[1]:.4f}, difference {self.difference:+.4f}"
            yield f"wins {self.wins}, losses {self.losses}, equal {self.num_scored - self.wins - self.losses}"
        if self.interval is not None:
            groups = "" if self.num_groups == self.num_scored else f", {self.num_groups} groups of questions"
            yield f"95% interval of the difference: {self.interval[0]:+.4f} to {self.interval[1]:+.4f} (paired{groups})"
        if self.p_value is not None:
            yield f"McNemar's exact test: p = {self.p_value:.4g}"
        yield self.verdict()

    def changed(self, max_changes: int = 10) -> Iterator[str]:
        """Yield lines for a terminal: how many outputs differ, and the first of them."""
        yield f"{len(self.changes)} outputs differ"
        for one in self.changes[:max_changes]:
            yield f"{visible_line(one.id)}: {_short(one.prompt)}"
            for name, output, credit in zip(("first", "second"), one.outputs, one.credits, strict=True):
                yield f"  {name:6} {'-' if credit is None else f'{credit:g}':>4}  {_short(output)}"
        if len(self.changes) > max_changes > 0:
            yield f"and {len(self.changes) - max_changes} more"


def compare(first: str | Path, second: str | Path) -> Comparison:
    """Compare two files OUT/TASK/answers.jsonl of a task.

    Raises ValueError for files that are not of this form, that were scored by different rules or judges, or that answer
    different questions.
    """
    paths = Path(first), Path(second)
    rows, problems = zip(*map(_read, paths), strict=True)
    check_scores(*paths)
    rows, others = of_the_same_questions(paths, rows)
    notes = tuple(f"note: {named(found, 'lines are left out')}" for found in problems if found)
    return compare_rows(*rows, notes=(*notes, *others))


def compare_rows(first: Rows, second: Rows, *, notes: Sequence[str] = ()) -> Comparison:
    """Compare lines of answers files by id; see `compare`."""
    answered = [{name for name, row in rows.items() if "output" in row} for rows in (first, second)]
    common = answered[0] & answered[1]
    both = [name for name in first if name in common]
    scored = [name for name in both if _credit(first[name]) is not None and _credit(second[name]) is not None]
    pairs = [(float(first[name]["credit"]), float(second[name]["credit"])) for name in scored]
    groups = [_group(name, first[name]) for name in scored]
    differences = [after - before for before, after in pairs]
    means = (_mean([one for one, _ in pairs]), _mean([one for _, one in pairs])) if pairs else None
    wins, losses = sum(one > 0 for one in differences), sum(one < 0 for one in differences)
    is_binary = bool(pairs) and all(credit in (0.0, 1.0) for pair in pairs for credit in pair)
    return Comparison(
        len(scored),
        len(both) - len(scored),
        (len(answered[0] - answered[1]), len(answered[1] - answered[0])),
        wins,
        losses,
        means,
        _mean(differences) if pairs else None,
        interval(differences, groups),
        len(set(groups)),
        mcnemar(wins, losses) if is_binary else None,
        tuple(_changes(first, second, both)),
        (*notes, *_notes(len(scored), len(set(groups)), is_binary)),
    )


def interval(differences: Sequence[float], groups: Sequence[str] | None = None) -> tuple[float, float] | None:
    """Return the 95% interval of the mean of paired differences, None for less than two groups.

    groups: which differences are not independent, as of questions on one image; their sum counts as one observation,
    with the factor G / (G - 1) for G groups. Without groups it is the plain standard error, s / sqrt(n).
    """
    groups = [str(place) for place in range(len(differences))] if groups is None else groups
    sums: dict[str, list[float]] = defaultdict(list)
    mean = _mean(differences) if differences else 0.0
    for group, difference in zip(groups, differences, strict=True):
        sums[group].append(difference - mean)
    if len(sums) < 2:
        return None
    squares = math.fsum(math.fsum(members) ** 2 for members in sums.values())
    error = math.sqrt(squares * len(sums) / (len(sums) - 1)) / len(differences)
    return mean - NORMAL_95 * error, mean + NORMAL_95 * error


def mcnemar(wins: int, losses: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: a fair coin thrown for each question that changed."""
    count, fewer = wins + losses, min(wins, losses)
    ways, tail = 1, 0
    for heads in range(fewer + 1):
        tail += ways
        ways = ways * (count - heads) // (heads + 1)
    return min(1.0, 2 * tail / 2**count)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _credit(row: Mapping[str, Any]) -> float | None:
    credit = row.get("credit")
    return None if isinstance(credit, bool) or not isinstance(credit, int | float) else float(credit)


def _group(name: str, row: Mapping[str, Any]) -> str:
    """Return what a question has in common with others: its image, or its index without the rotation of MMBench."""
    fields = row.get("fields")
    fields = fields if isinstance(fields, Mapping) else {}
    if isinstance(fields.get("image"), str):
        return f"image {fields['image']}"
    index = str(fields.get("index", ""))
    return f"index {int(index) % CIRCULAR}" if index.isascii() and index.isdecimal() else f"id {name}"


def _changes(first: Rows, second: Rows, both: Sequence[str]) -> list[Change]:
    changes = [
        Change(
            name,
            str(first[name].get("prompt", "")),
            (str(first[name]["output"]), str(second[name]["output"])),
            (_credit(first[name]), _credit(second[name])),
        )
        for name in both
        if first[name]["output"] != second[name]["output"]
    ]
    return sorted(changes, key=lambda one: one.credits[0] == one.credits[1])


def _notes(num_scored: int, num_groups: int, is_binary: bool) -> Iterator[str]:
    if 0 < num_groups < MIN_GROUPS:
        yield f"note: {num_groups} independent questions are few for an interval that assumes a normal distribution"
    if num_groups < num_scored:
        yield (
            "note: questions on one image, or rotations of one question, count as one group in the interval; the means "
            "are of single answers, while some tasks score groups"
        )
        if is_binary:
            yield "note: McNemar's test takes the questions as independent, so the interval decides here"


def _read(path: Path) -> tuple[dict[str, Mapping[str, Any]], list[Problem]]:
    """Return the lines of an answers file by id, and those that are broken or occur twice (the first counts)."""
    rows: dict[str, Mapping[str, Any]] = {}
    problems: list[Problem] = []
    for where, row in json_lines(path):
        if not isinstance(row, dict):
            problems.append(Problem(where, str(row) if isinstance(row, ValueError) else "the line is not an object"))
        elif "id" not in row or not row.keys() & {"output", "problem"}:
            raise ValueError(
                f"{where} has the keys {', '.join(list(row)[:8])}; expected id with output or problem: name the "
                "answers.jsonl of a run, OUT/TASK/answers.jsonl"
            )
        elif str(row["id"]) in rows:
            problems.append(Problem(where, "an answer came before", str(row["id"])))
        else:
            rows[str(row["id"])] = row
    return rows, problems


def _short(text: str) -> str:
    text = visible_line(text)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... ({len(text)} characters)"
