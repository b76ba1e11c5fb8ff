"""Names of tensors, translated in both directions by one table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """`ours` and `theirs` name one tensor, or with `{n}` one for each number n; is_transposed: its axes are swapped."""

    ours: str
    theirs: str
    is_transposed: bool = False


class KeyTable:
    """Looks up names through a list of rules, either way."""

    def __init__(self, rules: Sequence[Rule]):
        self._from_ours = [(_pattern(rule.ours), rule.theirs, rule.is_transposed) for rule in rules]
        self._from_theirs = [(_pattern(rule.theirs), rule.ours, rule.is_transposed) for rule in rules]

    def to_ours(self, name: str) -> tuple[str, bool] | None:
        """Return (our name, is_transposed) of one of their names, or None if no rule knows it."""
        return _translate(self._from_theirs, name)

    def to_theirs(self, name: str) -> tuple[str, bool] | None:
        """Return (their name, is_transposed) of one of our names, or None if no rule knows it."""
        return _translate(self._from_ours, name)


def _pattern(text: str) -> re.Pattern:
    return re.compile(re.escape(text).replace(r"\{n\}", r"(\d+)"))


def _translate(table, name: str) -> tuple[str, bool] | None:
    for pattern, target, is_transposed in table:
        match = pattern.fullmatch(name)
        if match:
            number = match.group(1) if match.groups() else ""
            return target.replace("{n}", number), is_transposed
    return None


def linear_rules(ours: str, theirs: str, *, has_bias: bool, is_transposed: bool) -> list[Rule]:
    """Return the rules of one Linear: its weight, which torch keeps as [out, in], and its bias."""
    rules = [Rule(f"{ours}.weight", f"{theirs}.weight", is_transposed)]
    return [*rules, Rule(f"{ours}.bias", f"{theirs}.bias")] if has_bias else rules
