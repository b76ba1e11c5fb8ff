"""Names of tensors, translated in both directions by one table."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Rule:
    """Our name and theirs of one tensor, or with `{n}` of one for each n. is_transposed: the axes are swapped."""

    ours: str
    theirs: str
    is_transposed: bool = False


@dataclass(frozen=True)
class FusedRule:
    """One matrix of theirs that consists of several of ours, row below row.

    It has num_groups groups, each with `rows` rows of each of ours. Names may have `{n}`. is_transposed: the axes of
    the parts are swapped to be ours.
    """

    ours: tuple[str, ...]
    theirs: str
    rows: tuple[int, ...]
    num_groups: int = 1
    is_transposed: bool = False

    @property
    def num_rows(self) -> int:
        return self.num_groups * sum(self.rows)

    def numbered(self, number: str) -> FusedRule:
        """Return the rule for one layer."""
        ours = tuple(name.replace("{n}", number) for name in self.ours)
        return replace(self, ours=ours, theirs=self.theirs.replace("{n}", number))


class KeyTable:
    """Looks up names through a list of rules, either way."""

    def __init__(self, rules: Sequence[Rule | FusedRule]):
        self._fused = [rule for rule in rules if isinstance(rule, FusedRule)]
        rules = [rule for rule in rules if isinstance(rule, Rule)]
        self._from_ours = [(_pattern(rule.ours), rule.theirs, rule.is_transposed) for rule in rules]
        self._from_theirs = [(_pattern(rule.theirs), rule.ours, rule.is_transposed) for rule in rules]

    def to_ours(self, name: str) -> tuple[str, bool] | None:
        """Return (our name, is_transposed) of one of their names, None if no rule, or a FusedRule, has it."""
        return _translate(self._from_theirs, name)

    def to_theirs(self, name: str) -> tuple[str, bool] | None:
        """Return (their name, is_transposed) of one of our names, None if no rule, or a FusedRule, has it."""
        return _translate(self._from_ours, name)

    def fused(self, theirs: str) -> FusedRule | None:
        """Return the rule of one of their names that consists of several of ours, None for other names."""
        return self._find_fused(theirs, lambda rule: (rule.theirs,))

    def fused_with(self, ours: str) -> FusedRule | None:
        """Return the rule of one of our names that is a part of one of theirs, None for other names."""
        return self._find_fused(ours, lambda rule: rule.ours)

    def _find_fused(self, name: str, names_of: Callable[[FusedRule], Sequence[str]]) -> FusedRule | None:
        for rule in self._fused:
            for text in names_of(rule):
                match = _pattern(text).fullmatch(name)
                if match:
                    return rule.numbered(match.group(1) if match.groups() else "")
        return None


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
    """Return the rules of one Linear: its weight, which is [out, in] in torch, and its bias."""
    rules = [Rule(f"{ours}.weight", f"{theirs}.weight", is_transposed)]
    return [*rules, Rule(f"{ours}.bias", f"{theirs}.bias")] if has_bias else rules
