"""Rows of a data file or of a mixture, for tests in which no row may be bad."""

from __future__ import annotations

from paddlemix.data.bad_rows import refuse
from paddlemix.data.mixture import scan_mixture
from paddlemix.data.readers.files import scan_rows
from paddlemix.data.row import Row


def read_rows(path) -> list[Row]:
    """Return the rows of a file. Raises ValueError with file and row if any row is bad."""
    rows, bad = scan_rows(path)
    refuse(bad)
    return rows


def read_mixture(value, split: str, **options) -> list[Row]:
    """Return the rows of a split as `scan_mixture` does. Raises ValueError if any row is bad."""
    rows, bad = scan_mixture(value, split, **options)
    refuse(bad)
    return rows
