"""Read the first sheet of a workbook (.xlsx) as texts: VLMEvalKit saves answers so, beside the columns of the table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...packages import missing


def import_openpyxl():
    """Return openpyxl. Raises ValueError that says how to install it."""
    try:
        import openpyxl
    except ImportError:
        raise missing("workbooks (.xlsx) need openpyxl", "eval") from None
    return openpyxl


def workbook_rows(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the number of each row, from 1, and its cells as texts; the header first. Empty rows are skipped.

    An empty cell is "". A whole number that a spreadsheet made floating is written as a whole one. Raises ValueError
    for a file that is not a workbook, and if openpyxl is not installed.
    """
    openpyxl = import_openpyxl()
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except Exception as error:  # zipfile's, openpyxl's and xml's own errors
        raise ValueError(f"{path} is not a workbook (.xlsx): {error}") from None
    num_columns = 0
    try:
        for number, row in enumerate(book.worksheets[0].iter_rows(values_only=True), 1):
            if any(cell is not None for cell in row):
                num_columns = num_columns or len(row)
                yield number, (*(_text(cell) for cell in row), *[""] * (num_columns - len(row)))
    finally:
        book.close()


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
