"""Draw rows without replacement, in their order. The same seed gives the same rows, on every machine."""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...output import named_file
from ..converter import Argument, Converter
from ..draw import draw
from ..job import Job
from ..row import Placed, Problem
from ..training_rows import FILES, row_paths, rows_of
from .merge import OUTPUT

SEED = Argument("--seed", "of the draw (default: 0)", False, {"type": int, "default": 0})


def drawn_rows(paths: Sequence[Path], seed: int, num_rows: int | None, share: float | None) -> Iterator[Placed]:
    """Yield each row with whether it is drawn: a number of rows, or about a share of them.

    Rows are counted first: memory holds only the numbers of the drawn ones.
    """
    is_drawn = partial(_has_share, seed, share) if num_rows is None else _numbers(paths, seed, num_rows).__contains__
    number = 0
    for row in rows_of(paths):
        if isinstance(row.value, Problem):
            yield row
            continue
        yield row._replace(value=(is_drawn(number), row.value))
        number += 1


def convert(value: tuple[bool, dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Return a row if it is drawn."""
    return [value[1]] if value[0] else []


def _has_share(seed: int, share: float, number: int) -> bool:
    return draw(seed, str(number)) < share


def _numbers(paths: Sequence[Path], seed: int, num_rows: int) -> frozenset[int]:
    """Return the numbers, from 0, of the rows that are drawn."""
    total = sum(not isinstance(row.value, Problem) for row in rows_of(paths))
    if num_rows > total:
        raise ValueError(f"--num_rows is {num_rows:,}, but there are only {total:,} rows")
    return frozenset(heapq.nsmallest(num_rows, range(total), key=lambda number: (draw(seed, str(number)), number)))


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """Return the job. Raises ValueError unless there is a number or a share of rows."""
    paths, num_rows, share = row_paths(arguments.files), arguments.num_rows, arguments.share
    if (num_rows is None) == (share is None):
        raise ValueError("expected either --num_rows or --share")
    if num_rows is not None and num_rows < 1:
        raise ValueError(f"--num_rows is {num_rows}: expected at least 1")
    if share is not None and not 0 < share < 1:
        raise ValueError(f"--share is {share}: expected more than 0 and less than 1")
    settings = {"seed": arguments.seed, "num_rows": num_rows, "share": share}
    rows = partial(drawn_rows, paths, **settings)
    return [Job(named_file(arguments.output, paths), paths, rows, convert, settings)]


CONVERTER = Converter(
    name="sample",
    description="draw rows from files",
    files="any files of rows that training reads (a JSON list, or one JSON object a line)",
    example="sample llava.jsonl --num_rows 10000 --output llava_10k.jsonl",
    arguments=(
        FILES,
        OUTPUT,
        Argument("--num_rows", "how many rows to draw", False, {"type": int, "metavar": "N"}),
        Argument("--share", "about which share of the rows to draw, as 0.1", False, {"type": float, "metavar": "P"}),
        SEED,
    ),
    jobs=jobs,
)
