"""Types of command-line options that are numbers, with errors that say what was found and what is expected."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Number:
    """The type of an option that is a finite number, between two limits if they are given.

    is_above: `least` itself is too small.
    """

    is_whole: bool
    least: float | None = None
    most: float | None = None
    is_above: bool = False

    @property
    def metavar(self) -> str:
        """How a help names the value."""
        return "N" if self.is_whole else "X"

    def __call__(self, text: str) -> float:
        """Return the number. Raises ArgumentTypeError for another text."""
        number = self._read(text)
        is_far = self.most is not None and number > self.most
        is_small = self.least is not None and (number < self.least or (self.is_above and number == self.least))
        if not math.isfinite(number) or is_far or is_small:
            raise argparse.ArgumentTypeError(f"found {text!r}, expected {self._expected()}")
        return number

    def _read(self, text: str) -> float:
        """Return NaN for what is no number."""
        if self.is_whole:
            return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else math.nan
        try:
            return float(text)
        except ValueError:
            return math.nan

    def _expected(self) -> str:
        kind = "a whole number" if self.is_whole else "a number"
        if self.least is None:
            return kind if self.most is None else f"{kind} of at most {self.most:g}"
        if self.is_above:
            return f"{kind} above {self.least:g}" + ("" if self.most is None else f" and at most {self.most:g}")
        limits = f"of at least {self.least:g}" if self.most is None else f"from {self.least:g} to {self.most:g}"
        return f"{kind} {limits}"


def whole(least: int | None = None, most: int | None = None) -> Number:
    """Return the type of an option that is a whole number."""
    return Number(True, least, most)


def real(least: float | None = None, most: float | None = None) -> Number:
    """Return the type of an option that is any number."""
    return Number(False, least, most)


above_zero = Number(False, 0, is_above=True)
probability = Number(False, 0, 1, is_above=True)
