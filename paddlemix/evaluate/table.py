"""Read a benchmark's table: tab-separated values with images as base64, as VLMEvalKit and MMBench distribute them.

All cells are text: "None", "N/A", "nan" and "007" stay as they are, and only an empty cell is absent. The image of a
row is base64, a Python list of it, the index of another row, or a file named in the column image_path. Images are not
kept: they are read from the file again when they are needed.

The table may also be one of answers that VLMEvalKit saved, a workbook or tab-separated: it has answers beside the
columns, and no images. NOTE: pandas, which wrote it, has made empty cells of "None", "N/A" and the like.
"""

from __future__ import annotations

import ast
import base64
import binascii
import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .files.workbook import workbook_rows
from .item import AbsentImage, ImageSource, Problem, first_file

MAX_CELL = (1 << 31) - 1  # characters; csv's own limit is 131,072
MAX_REFERENCE = 64  # characters; a longer cell is an image
NEEDED = ("index", "question")
WORKBOOK = ".xlsx"
TABLES = (WORKBOOK, ".tsv")  # in which VLMEvalKit saves answers
ANSWER = "prediction"  # their column
_RENAMED = {"L2-category": "l2-category", "l2_category": "l2-category"}
_WHOLE = re.compile(r"(\d+)\.0+")  # an index that went through a spreadsheet
_QUOTED = re.compile(r"""['"]([^'"]*)['"]""")


@dataclass(frozen=True)
class TableImage:
    """An image in a cell of a table. offset, size: of the row, in bytes; place: in a cell that holds several."""

    path: Path
    offset: int
    size: int
    column: int
    place: int = 0

    def __call__(self) -> bytes:
        """Return the bytes of the image's file. Raises ValueError if the table has changed."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            text = file.read(self.size).decode("utf-8", "surrogateescape")
        try:
            cells = next(_reader(line + "\n" for line in text.split("\n")))
            return _decoded(_parts(cells[self.column])[self.place])
        except (StopIteration, IndexError, csv.Error, binascii.Error) as error:
            raise ValueError(
                f"{self.path} has changed since it was read: there is no image at {self.offset}"
            ) from error


@dataclass(frozen=True)
class TableRow:
    """A row without its image. line: number in the file, from 1. cells: by column, without empty ones."""

    line: int
    index: str
    cells: Mapping[str, str]
    images: tuple[ImageSource, ...]

    @property
    def options(self) -> dict[str, str]:
        """The options by letter, of the columns A, B, C and so on that are not empty."""
        return {name: self.cells[name] for name in sorted(self.cells) if len(name) == 1 and "A" <= name <= "Z"}


@dataclass(frozen=True)
class Table:
    """The good rows of a table in their order, and what is wrong with the others."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class _Raw:
    """A row as the file has it, with its images as far as they are its own. error: csv's, "" if there is none.

    offset: in bytes; None in a workbook, which has no images.
    """

    line: int
    offset: int | None
    size: int
    cells: tuple[str, ...]
    error: str = ""


def read_table(path: str | Path, image_folders: Sequence[Path] = ()) -> Table:
    """Read a table (.tsv), in one pass and without keeping images, or a workbook (.xlsx).

    image_folders: of files named in image_path; the table's own without any. Problems are rows with a wrong number of
    cells, broken quotes or base64, no index, an index that occurred before, a reference to no image, or a missing file.
    A row without an image is kept: tasks decide. Raises ValueError for a file that is not such a table.
    """
    path = Path(path)
    raw = _workbook_rows(path) if path.suffix.lower() == WORKBOOK else _raw_rows(path)
    columns = _columns(path, next(raw, None))
    folders = image_folders or (path.parent,)
    rows: dict[str, TableRow] = {}
    references: dict[str, str] = {}
    problems: list[Problem] = []
    for one in raw:
        try:
            row, reference = _row(path, columns, one, folders)
            if row.index in rows:
                raise ValueError(f"index {row.index} occurs before, in line {rows[row.index].line}")
        except ValueError as error:
            problems.append(Problem(f"{path.name} line {one.line}", str(error), _index_of(columns, one)))
            continue
        rows[row.index] = row
        if reference:
            references[row.index] = reference
    good, bad = _linked(path, rows, references)
    return Table(path, columns, tuple(good), tuple(problems + bad))


def listed(text: str) -> list[str]:
    """Return the texts of a cell that is written as a Python list, or the cell as the only one."""
    stripped = text.strip()
    if not (stripped.startswith("[") and stripped.endswith("]")):
        return [text]
    try:
        values = ast.literal_eval(stripped)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return [text]  # brackets in a plain text
    return [str(value) for value in values]


def _reader(lines: Iterator[str]) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_CELL)
    return csv.reader(lines, delimiter="\t", strict=True)


def _raw_rows(path: Path) -> Iterator[_Raw]:
    """Yield the rows of a file with their places. Bytes that are not UTF-8 become halves of surrogate pairs."""
    if not path.is_file():
        raise ValueError(f"{path} is not a file: expected a table of tab-separated values")
    with path.open("rb") as file:
        start = 3 if file.read(3) == b"\xef\xbb\xbf" else 0
        file.seek(start)
        lines = _Lines(file, start)
        reader = _reader(lines)
        while True:
            offset, number, cells, error = lines.offset, lines.count + 1, [], ""
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as problem:
                error = str(problem)
            if cells or error:  # not a blank line
                yield _Raw(number, offset, lines.offset - offset, tuple(cells), error)


def _workbook_rows(path: Path) -> Iterator[_Raw]:
    for number, cells in workbook_rows(path):
        yield _Raw(number, None, 0, cells)


class _Lines:
    """Iterate over the lines of a file, counting them and their bytes."""

    def __init__(self, file, offset: int):
        self.file, self.offset, self.count = file, offset, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self.file)
        self.offset += len(line)
        self.count += 1
        return line.decode("utf-8", "surrogateescape")


def _columns(path: Path, header: _Raw | None) -> tuple[str, ...]:
    """Return the names of the columns. Raises ValueError for a file without a header of this kind."""
    if header is None:
        raise ValueError(f"{path} is empty: expected a table of tab-separated values with a header; download it again")
    names = [name.strip() for name in header.cells]
    names = [_RENAMED.get(name, name) for name in names]
    missing = [name for name in NEEDED if name not in names]
    if header.error or missing:
        found = header.error or ", ".join(repr(name[:40]) for name in names[:8])
        raise ValueError(
            f"{path} is not a benchmark's table: its first line is {found}; expected tab-separated names of columns "
            f"with {' and '.join(NEEDED)}. Download the .tsv again, or name the right file."
        )
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise ValueError(f"{path} has the columns {', '.join(twice)} twice: expected each once")
    return tuple(names)


def _row(path: Path, columns: tuple[str, ...], raw: _Raw, folders: Sequence[Path]) -> tuple[TableRow, str]:
    """Return a row, and the index of the row that holds its image, "" if it does itself. Raises ValueError."""
    if raw.error:
        raise ValueError(f"the quotes of the row are broken: {raw.error}")
    if len(raw.cells) != len(columns):
        raise ValueError(f"the row has {len(raw.cells)} cells, expected {len(columns)}")
    cells = {name: cell for name, cell in zip(columns, raw.cells, strict=True) if cell.strip() and name}
    image = cells.pop("image", "").strip()
    if any(not cell.isascii() and _has_surrogates(cell) for cell in cells.values()):
        raise ValueError("the row is not UTF-8")
    index = _plain_index(cells.get("index", ""))
    if not index or "question" not in cells:
        raise ValueError(f"the row has no {'question' if index else 'index'}")
    if raw.offset is None or (ANSWER in columns and "image" not in columns):
        return TableRow(raw.line, index, cells, (AbsentImage(),) * len(listed(cells.get("image_path", "")))), ""
    if not image:
        return TableRow(raw.line, index, cells, _named_files(cells, folders)), ""
    if len(image) <= MAX_REFERENCE and not image.startswith("["):
        return TableRow(raw.line, index, cells, ()), _plain_index(image)
    parts = _parts(image)
    for number, part in enumerate(parts):
        _check_base64(part, number, len(parts))
    place = columns.index("image")
    images = tuple(TableImage(path, raw.offset, raw.size, place, number) for number in range(len(parts)))
    return TableRow(raw.line, index, cells, images), ""


def _named_files(cells: Mapping[str, str], folders: Sequence[Path]) -> tuple[ImageSource, ...]:
    """Return the images that image_path names."""
    names = listed(cells["image_path"]) if "image_path" in cells else []
    return tuple(first_file(folders, name) for name in names)


def _linked(
    path: Path, rows: Mapping[str, TableRow], references: Mapping[str, str]
) -> tuple[list[TableRow], list[Problem]]:
    """Give rows with a reference the images of the row that they refer to, in as many steps as it takes."""
    good, problems = [], []
    for row in rows.values():
        seen, owner = {row.index}, row
        while owner is not None and owner.index in references:
            wanted = references[owner.index]
            owner = None if wanted in seen else rows.get(wanted)
            seen.add(wanted)
        if owner is None or (row.index in references and not owner.images):
            text = f"its image is that of index {references[row.index]!r}, where there is none"
            problems.append(Problem(f"{path.name} line {row.line}", text, row.index))
        else:
            good.append(TableRow(row.line, row.index, row.cells, owner.images))
    return good, problems


def _parts(cell: str) -> list[str]:
    """Return the base64 texts of a cell."""
    cell = cell.strip()
    return _QUOTED.findall(cell) if cell.startswith("[") else [cell]


def _decoded(text: str) -> bytes:
    return base64.b64decode("".join(text.split()), validate=True)


def _check_base64(text: str, number: int, count: int) -> None:
    where = f"image {number + 1} of {count}" if count > 1 else "the image"
    try:
        is_empty = not _decoded(text)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{where} is not base64: {error}") from None
    if is_empty:
        raise ValueError(f"{where} is empty")


def _plain_index(text: str) -> str:
    text = text.strip()
    whole = _WHOLE.fullmatch(text)
    return whole.group(1) if whole else text


def _index_of(columns: tuple[str, ...], raw: _Raw) -> str:
    place = columns.index("index")
    cell = raw.cells[place] if place < len(raw.cells) else ""
    return "" if _has_surrogates(cell) else _plain_index(cell)[:MAX_REFERENCE]


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= mark <= "\udfff" for mark in text)
