"""Figures as papers print them: fractions in percent, points and counts as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .scores.result import Figure, Scores

NO_VALUE = "–"


@dataclass(frozen=True)
class Unit:
    """What a figure is. factor: from the value to what is printed. top: the best value; None if there is no limit."""

    name: str
    factor: float = 1.0
    digits: int = 1
    sign: str = ""
    top: float | None = None

    def printed(self, value: float | None) -> str:
        """Return a value with its sign, a dash for None."""
        return NO_VALUE if value is None else f"{value * self.factor:,.{self.digits}f}{self.sign}"


FRACTION = Unit("fraction", factor=100, sign="%", top=1.0)
PERCENT = Unit("percent", sign="%", top=100.0)
POINTS, COUNT, CIDER = Unit("points"), Unit("count", digits=0), Unit("CIDEr", factor=100)
# By the main figure, whose name tells the metric; all others are fractions (see the files in scores/).
_OF_MAIN: Mapping[str, Unit] = MappingProxyType(
    {"perception": POINTS, "score": COUNT, "ratio": PERCENT, "total": PERCENT}
)
_TOPS_OF_MME: Mapping[str, float] = MappingProxyType({"perception": 2000, "cognition": 800, "total": 2800})
_TOP_OF_MME_CATEGORY = 200.0


def unit_of(scores: Scores, name: str = "") -> Unit:
    """Return the unit of a figure, of the main one without a name."""
    name = name or scores.main
    unit = CIDER if name == "CIDEr" else _OF_MAIN.get(scores.main, FRACTION)
    if unit is POINTS:
        return Unit(unit.name, top=_TOPS_OF_MME.get(name, _TOP_OF_MME_CATEGORY))
    if unit is COUNT:
        return Unit(unit.name, digits=0, top=float(scores.figures[name].count))
    return unit


def printed(scores: Scores, name: str = "") -> str:
    """Return a figure as papers print it: "85.9%", "1,510.7", "612"."""
    return unit_of(scores, name).printed(_figure(scores, name).value)


def share(scores: Scores, name: str = "") -> float | None:
    """Return a figure as a share of its best value, from 0 to 1; None where there is no value or no best one."""
    value, top = _figure(scores, name).value, unit_of(scores, name).top
    return None if value is None or not top else min(1.0, max(0.0, value / top))


def top_text(scores: Scores, name: str = "") -> str:
    """Return what a figure is out of, "of 2,000", where it is not a percentage."""
    unit = unit_of(scores, name)
    return f"of {unit.top:,.0f}" if unit.top and not unit.sign else ""


def _figure(scores: Scores, name: str) -> Figure:
    return scores.figures[name or scores.main]
