"""Types of command-line options that are numbers, with errors that say what was found and what is expected."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable


def whole(least: int | None = None, most: int | None = None) -> Callable[[str], int]:
    """Return the type of an option that is a whole number, between two limits if they are given."""

    def whole_number(text: str) -> int:
        number = int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None
        if number is None or not _is_in(number, least, most):
            raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number{_limits(least, most)}")
        return number

    return whole_number


def real(least: float | None = None, most: float | None = None, *, is_above: bool = False) -> Callable[[str], float]:
    """Return the type of an option that is a finite number. is_above: `least` itself is too small."""

    def real_number(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and _is_in(number, least, most)) or (is_above and number == least):
            raise argparse.ArgumentTypeError(f"found {text!r}, expected a number{_limits(least, most, is_above)}")
        return number

    return real_number


above_zero = real(0, is_above=True)
probability = real(0, 1, is_above=True)


def _is_in(number: float, least: float | None, most: float | None) -> bool:
    return (least is None or number >= least) and (most is None or number <= most)


def _limits(least: float | None, most: float | None, is_above: bool = False) -> str:
    if least is None:
        return "" if most is None else f" of at most {most:g}"
    if is_above:
        return f" above {least:g}" + ("" if most is None else f" and at most {most:g}")
    return f" of at least {least:g}" if most is None else f" from {least:g} to {most:g}"
