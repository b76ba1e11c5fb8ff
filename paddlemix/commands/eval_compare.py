"""`paddlemix eval compare`: compare the answers of two runs, to see whether one is better by more than chance."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..terminal.near_paths import did_you_mean
from ..terminal.visible import visible, visible_json
from .parser import add_examples

MAX_WIDTH = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    for name in ("first", "second"):
        parser.add_argument(name, metavar="RUN", help="output folder of `eval run`, or one answers.jsonl of it")
    parser.add_argument("--task", action="append", default=None, help="only this benchmark; may be repeated")
    parser.add_argument("--changes", type=int, default=10, metavar="N", help="changed answers to show (default 10)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    add_examples(parser, "paddlemix eval compare out/before out/after")


def run(arguments: argparse.Namespace) -> int:
    """Compare and print. Raises ValueError or OSError for a user's mistake."""
    from dataclasses import asdict

    from ..evaluate.compare import compare
    from ..terminal.columns import wrapped

    pairs = _pairs(Path(arguments.first).expanduser(), Path(arguments.second).expanduser(), arguments.task)
    found = {name: compare(*paths) for name, paths in pairs.items()}
    if arguments.json:
        print(visible_json({name: {**asdict(one), "verdict": one.verdict()} for name, one in found.items()}))
    else:
        parts = []
        for name, one in found.items():
            summary = [line for text in one.summary() for line in wrapped(text, MAX_WIDTH)]
            parts.append("\n".join([name, *summary, *one.changed(max(arguments.changes, 0))]))
        print(visible("\n\n".join(parts)))
    return 0


def _pairs(first: Path, second: Path, names: list[str] | None) -> dict[str, tuple[Path, Path]]:
    """Return the files of answers by task that both runs have. Raises ValueError if there is none to compare."""
    from ..evaluate.tasks import task_of

    files = [_files(one) for one in (first, second)]
    if all(one.is_file() for one in (first, second)):
        return {"answers": (first, second)}
    if first.is_file() or second.is_file():
        raise ValueError(f"of {first} and {second} one is a file: name two output folders, or two answers.jsonl")
    both = [name for name in files[0] if name in files[1]]
    wanted = [task_of(name).name for name in names] if names else both
    missing = [name for name in wanted if name not in both]
    if missing or not wanted:
        known = [", ".join(one) or "nothing" for one in files]
        raise ValueError(
            f"{first} has answers to {known[0]}, {second} to {known[1]}: "
            f"there is nothing to compare{f' of {missing[0]}' if missing else ''}"
        )
    return {name: (files[0][name], files[1][name]) for name in wanted}


def _files(run: Path) -> dict[str, Path]:
    """Return the files of answers in an output folder by task."""
    from ..evaluate.journal import ANSWERS

    if not run.exists():
        expected = "expected the output folder of `paddlemix eval run`"
        raise ValueError(f"{run} does not exist: {expected}{did_you_mean(run)}")
    return {path.parent.name: path for path in sorted(run.glob(f"*/{ANSWERS}"))}
