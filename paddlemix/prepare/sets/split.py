"""Split rows into training, validation and test files, so that no image is in two of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from ..converter import Argument, Converter
from ..draw import draw
from ..groups import IMAGE, ROW, Links, group_of, links_in
from ..job import Job
from ..paths import user_path
from ..record import content_of, is_own, read_record
from ..row import Placed, Problem
from ..training_rows import FILES, row_paths, rows_of
from .sample import SEED

NAME = "split"
PARTS = ("train", "val", "test")


def rows_with_draws(paths: Sequence[Path], seed: int, by: str, links: Callable[[], Links]) -> Iterator[Placed]:
    """Yield each row with a function that returns the number, 0 to 1, that its group has drawn."""
    found = links()
    for number, row in enumerate(rows_of(paths)):
        if not isinstance(row.value, Problem):
            row = row._replace(value=(partial(_drawn, row.value, number, by, found, seed), row.value))
        yield row


def _drawn(row: dict[str, Any], number: int, by: str, links: Links, seed: int) -> float:
    return draw(seed, group_of(row, number, by, links))


def convert(start: float, end: float, value: tuple[Callable[[], float], dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Return a row if it is in the part from start up to end."""
    return [value[1]] if start <= value[0]() < end else []


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """Return a job for each part. Raises ValueError for shares that leave nothing to train on."""
    paths, val, test = row_paths(arguments.files), arguments.val_share, arguments.test_share
    if not 0 < val < 1 or not 0 <= test < 1 or val + test >= 1:
        raise ValueError(f"--val_share {val} and --test_share {test}: expected shares that leave rows to train on")
    folder = user_path(arguments.output_dir) if arguments.output_dir else paths[0].parent
    by, seed = arguments.group, arguments.seed
    links = cache(partial(_links, paths, by))
    rows = partial(rows_with_draws, paths, seed, by, links)
    ends = {"val": (0.0, val), "test": (val, val + test), "train": (val + test, 1.0)}
    made = []
    for part in PARTS:
        start, end = ends[part]
        output = folder / f"{paths[0].stem}_{part}.jsonl"
        if start < end or _is_earlier_part(output):
            settings = {"seed": seed, "group": by, "from": start, "to": end}
            made.append(Job(output, paths, rows, partial(convert, start, end), settings, is_part=True))
    return made


def _is_earlier_part(path: Path) -> bool:
    """Return whether a part was written by an earlier split, whose rows are in other parts now."""
    return is_own(content_of(path), read_record(path), NAME)


def _links(paths: Sequence[Path], by: str) -> Links:
    return links_in(row.value for row in rows_of(paths)) if by == IMAGE else Links()


CONVERTER = Converter(
    name=NAME,
    description="split rows into training and validation files, with each image in one of them",
    files="any files of rows that training reads (a JSON list, or one JSON object a line)",
    example="split all.jsonl --val_share 0.02",
    arguments=(
        FILES,
        Argument("--output_dir", "folder for NAME_train.jsonl and NAME_val.jsonl (default: the files')", False),
        Argument(
            "--val_share",
            "about which share of the groups to validate on, as 0.02: each is drawn by itself",
            True,
            {"type": float, "metavar": "P"},
        ),
        Argument(
            "--test_share",
            "share of a third file, NAME_test.jsonl (default: 0, no such file)",
            False,
            {"type": float, "default": 0.0, "metavar": "P"},
        ),
        Argument(
            "--group",
            f"rows that stay together: {IMAGE} (those with an image in common), {ROW} (none), or those "
            f"with the same value of a key (default: {IMAGE})",
            False,
            {"default": IMAGE, "metavar": "KEY"},
        ),
        SEED,
    ),
    jobs=jobs,
)
