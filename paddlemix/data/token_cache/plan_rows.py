"""From the rows of a mixture to the plan of a cache: which different rows it has, and of which files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..encoding import Encoding
from ..mixture import Entry
from ..row import Row
from ..row_note import RowNote
from .build import PART_ROWS, CacheRows
from .fingerprint import encoding_facts, file_facts
from .manifest import Plan


def plan_cache(
    rows: Sequence[Row],
    left_out: Sequence[RowNote],
    entries: Sequence[Entry],
    encoding: Encoding,
    *,
    split: str,
    seed: int,
    has_images: bool = False,
    shuffle: int | None = None,
    part_rows: int | None = None,
) -> tuple[Plan, CacheRows]:
    """Return what a cache of a split will contain, and its rows, each once. Reads the whole data files.

    Raises ValueError for rows that come from a cache themselves.
    """
    if not isinstance(rows, list):
        raise ValueError(
            "the dataset names a token cache or HDF5 files: name the raw data files to make a cache of them"
        )
    files: dict[tuple, int] = {}
    numbers: dict[tuple[int, int], int] = {}
    different, file_of, mixture = [], [], np.empty(len(rows), dtype=np.int64)
    for index, row in enumerate(rows):
        file = files.setdefault((row.file, row.folders), len(files))
        number = numbers.setdefault((file, row.number), len(numbers))
        if number == len(different):
            different.append(row)
            file_of.append(file)
        mixture[index] = number
    is_plain = len(rows) == len(different)
    plan = Plan(
        split=split,
        seed=seed,
        encoding=encoding_facts(encoding.tokenizer, encoding.template, encoding.spec, encoding.max_length),
        files=tuple({**file_facts(file), "folders": list(folders)} for file, folders in files),
        entries=tuple(_entry(entry) for entry in entries),
        num_rows=len(different),
        num_in_mixture=len(rows),
        part_rows=part_rows or PART_ROWS,
        has_images=has_images,
        shuffle=shuffle,
    )
    return plan, CacheRows(different, file_of, None if is_plain else mixture, list(left_out))


def _entry(entry: Entry) -> dict[str, Any]:
    """Return what an entry takes of its files, as JSON values."""
    values = {"data_files": list(entry.data_files), "weight": entry.weight, "num_samples": entry.num_samples}
    return {**values, "image_folder": entry.image_folder}
