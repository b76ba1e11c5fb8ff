"""Compare our scorers with a file of golden scores: python tests/evaluate/check_golden.py FILE [--answers FOLDER].

Prints for each group of cases how many agree, and every value that differs. Exits with 1 if any does.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

from golden_cases import NotAtHand, values_of  # noqa: E402

RELEASED = "../data/llava-1.5-13b"  # answers that LLaVA 1.5 13B gave, released with its code
TOLERANCE = 1e-9  # golden values are rounded to 10 places


def is_same(expected: Any, ours: Any) -> bool:
    """Return whether two values are equal: numbers up to rounding, containers element by element."""
    if isinstance(expected, Mapping):
        return (
            isinstance(ours, Mapping)
            and expected.keys() == ours.keys()
            and all(is_same(value, ours[key]) for key, value in expected.items())
        )
    if isinstance(expected, list):
        return (
            isinstance(ours, list)
            and len(expected) == len(ours)
            and all(is_same(a, b) for a, b in zip(expected, ours, strict=True))
        )
    numbers = isinstance(expected, int | float), isinstance(ours, int | float)
    if all(numbers):
        return math.isclose(expected, ours, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return type(expected) is type(ours) and expected == ours


def differences(name: str, case: Mapping, group: Mapping, answers: Path | None) -> Iterator[str]:
    """Yield what differs in a case. Where a reference raises, ours has to raise ValueError; else it may not raise."""
    for column, expected, compute in values_of(name, case, group, answers):
        raises = isinstance(expected, Mapping) and "raises" in expected
        try:
            ours = compute()
        except Exception as error:
            if not raises or not isinstance(error, ValueError):
                yield f"{column}: expected {expected!r}, raised {type(error).__name__}: {error}"
            continue
        if raises or not is_same(expected, ours):
            yield f"{column}: expected {expected!r}, found {ours!r}"


def check(golden: Mapping, answers: Path | None) -> tuple[list[str], bool]:
    """Return the lines to print and whether all cases that could be run agree."""
    printed, all_agree = [], True
    for name, group in golden["groups"].items():
        num_agreeing, num_not_run, wrong = 0, 0, []
        for number, case in enumerate(group["cases"]):
            try:
                found = list(differences(name, case, group, answers))
            except NotAtHand as error:
                num_not_run += 1
                wrong.append(f"  case {number} not run, it needs {error}")
                continue
            except KeyError as error:  # a new group, or a new column of one
                found = [f"nothing here compares {error}"]
            num_agreeing += not found
            wrong += [f"  case {number}: {text}" for text in found]
            all_agree = all_agree and not found
        not_run = f", {num_not_run} not run" if num_not_run else ""
        printed += [f"{name}: {num_agreeing} of {len(group['cases'])} agree{not_run}", *wrong]
    return printed, all_agree


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, help="a file in the format of tests/assets/golden_scores.json")
    parser.add_argument(
        "--answers",
        type=Path,
        help=f"folder with the released answers (default: {RELEASED} from FILE's folder, if it exists)",
    )
    arguments = parser.parse_args()
    beside = arguments.file.resolve().parent / RELEASED
    answers = arguments.answers or (beside if beside.is_dir() else None)
    printed, all_agree = check(json.loads(arguments.file.read_text(encoding="utf-8")), answers)
    print("\n".join(printed))
    return 0 if all_agree else 1


if __name__ == "__main__":
    sys.exit(main())
