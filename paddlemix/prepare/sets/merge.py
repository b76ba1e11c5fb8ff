"""Join files of rows to one. The rows stay as they are, in the order of the files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...output import named_file
from ..converter import Argument, Converter
from ..job import Job
from ..row import Placed, Problem
from ..row_images import with_prefix
from ..training_rows import FILES, row_paths, rows_of

OUTPUT = Argument("--output", "file to write, with one row a line", options={"metavar": "FILE"})


def prefixed_rows(paths: Sequence[Path], prefixes: Sequence[str]) -> Iterator[Placed]:
    """Yield the rows of files, each with the prefix of its file."""
    for number, (path, prefix) in enumerate(zip(paths, prefixes, strict=True)):
        for row in rows_of([path]):
            value = row.value if isinstance(row.value, Problem) else (prefix, row.value)
            yield Placed(row.where, value, (number + row.share) / len(paths))


def convert(value: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a row with the prefix of its file before its images."""
    prefix, row = value
    return with_prefix(row, prefix)


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """Return the job. Raises ValueError unless there is one prefix, or one for each file."""
    paths, prefixes = row_paths(arguments.files), arguments.image_prefix or [""]
    prefixes = prefixes * len(paths) if len(prefixes) == 1 else prefixes
    if len(prefixes) != len(paths):
        raise ValueError(
            f"--image_prefix has {len(prefixes)} folders for {len(paths)} files: expected one for all, or one for each "
            "('' for none)"
        )
    rows = partial(prefixed_rows, paths, prefixes)
    return [Job(named_file(arguments.output, paths), paths, rows, convert, {"prefixes": prefixes})]


CONVERTER = Converter(
    name="merge",
    description="join files of rows to one",
    files="any files of rows that training reads (a JSON list, or one JSON object a line)",
    example="merge llava.jsonl chartqa.jsonl --output all.jsonl --image_prefix '' chartqa",
    arguments=(
        FILES,
        OUTPUT,
        Argument(
            "--image_prefix",
            "folder to put before the images: one for all files, or one for each ('' for none)",
            False,
            {"nargs": "+", "metavar": "DIR"},
        ),
    ),
    jobs=jobs,
)
