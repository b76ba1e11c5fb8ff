"""Compare answers with the expected ones, and print the share of correct answers by kind of question."""

from __future__ import annotations

import argparse
import json
import string
from collections.abc import Iterable, Mapping
from pathlib import Path

from paddlemix.examples.llava.tiny.questions import NUMBERS, PLACES
from paddlemix.examples.llava.tiny.shapes import COLORS, KINDS

# The words of a description that carry its content; all others are ignored.
CONTENT = {*COLORS, *KINDS, *NUMBERS, "not", *(word for place in PLACES.values() for word in place.split())}
_NO_PUNCTUATION = str.maketrans(string.punctuation, " " * len(string.punctuation))


def normalize(text: str) -> str:
    """Return a text in lower case, without punctuation, with single spaces."""
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


def is_correct(kind: str, answer: str, expected: str) -> bool:
    """Return whether an answer is correct.

    Case and punctuation are ignored. A description is correct if it has the same colors, shapes and places in the same
    order; any other answer must be the expected one, word for word.
    """
    found, wanted = normalize(answer).split(), normalize(expected).split()
    if kind == "description":
        found, wanted = ([word for word in words if word in CONTENT] for words in (found, wanted))
    return found == wanted


def score(answers: Iterable[Mapping[str, str]]) -> dict[str, dict[str, float]]:
    """Return the number of correct answers by kind, and of all kinds under "all".

    Each answer has kind, answer and expected. The result is {kind: {"right", "asked", "share"}}. Raises ValueError for
    no answers.
    """
    counts: dict[str, list[int]] = {}
    for row in answers:
        right = is_correct(row["kind"], row["answer"], row["expected"])
        for kind in (row["kind"], "all"):
            count = counts.setdefault(kind, [0, 0])
            count[0] += right
            count[1] += 1
    if not counts:
        raise ValueError("there is no answer to score: expected one or more rows with kind, answer and expected")
    counts["all"] = counts.pop("all")
    return {kind: {"right": right, "asked": num, "share": right / num} for kind, (right, num) in counts.items()}


def table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Return the scores as a text table, one kind per line."""
    lines = [f"{'kind':<12} {'right':>6} {'asked':>6} {'share':>7}"]
    lines += [f"{kind:<12} {row['right']:>6} {row['asked']:>6} {row['share']:>7.1%}" for kind, row in scores.items()]
    return "\n".join(lines)


def read_answers(path: Path) -> list[dict[str, str]]:
    """Return the answers of a JSONL file. Raises ValueError with the line that is not a row with the three keys."""
    if not path.is_file():
        raise ValueError(f"{path} is not a file: name the JSONL file with the answers")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
        missing = [key for key in ("kind", "answer", "expected") if not isinstance(row, dict) or key not in row]
        if missing:
            raise ValueError(f"{path}, line {number} lacks {', '.join(missing)}: expected kind, answer and expected")
        rows.append(row)
    return rows


def main(argv: list[str] | None = None) -> None:
    """Print the table for a JSONL file of answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("answers", type=Path, help="JSONL file, each row with kind, answer and expected")
    arguments = parser.parse_args(argv)
    try:
        print(table(score(read_answers(arguments.answers))))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
