"""Check rows as training reads them, and open every image that they name; write the good ones."""

from __future__ import annotations

import argparse
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ...data.encode import find_image
from ...data.measure import MISSING, UNREADABLE
from ...data.readers.errors import BadRowError
from ...data.readers.files import read_row
from ...image.errors import ImageError, MissingImageError
from ...image.load import is_address, load_image, read_image_size
from ...output import named_file, replacing
from ...terminal.log import notice
from ...terminal.sizes import plural
from ...terminal.visible import visible
from ..check_report import Tally
from ..converter import Argument, Converter, num_workers_of
from ..image_tree import ImageTree, image_folder
from ..job import Job, made_rows
from ..progress import Progress
from ..record import Record, check_own, content_of, read_record, write_record
from ..row import Problem, RowError
from ..row_files import RowFile, form_of
from ..summary import Summary
from ..training_rows import FILES, parsed_row, row_paths, row_texts

NAME = "validate"
MAX_KNOWN = 1 << 14  # images whose result a process keeps: neighboring rows often share them
WRITTEN = ("id", "kind", "reason")
SWITCH = {"action": "store_true"}


@dataclass
class RowCheck:
    """Checks rows. folders: where images are looked up, in order. is_fast: read only the headers of images.

    is_named: whether the user named the folders. No image may then be outside of them. keeps_rows: whether the verdict
    on a good row has the row.
    """

    folders: tuple[str, ...]
    is_named: bool = False
    is_fast: bool = False
    has_images: bool = True
    keeps_rows: bool = False
    _known: dict[str, tuple[str, str] | None] = field(default_factory=dict, repr=False)
    _trees: dict[str, ImageTree] = field(default_factory=dict, repr=False)

    def __call__(self, text: str) -> dict[str, Any]:
        """Return the verdict on a row: {"num_images", "num_unopened"}, and of a bad one "kind", "reason" and "id".

        "image": the one at fault. Of a good row: "notices", what training changes in it, and "row", if it is wanted.
        """
        try:
            row = parsed_row(text)
        except RowError as error:
            return _verdict(None, "not_json", str(error))
        try:
            conversation, notices = read_row(row)
        except ValueError as error:
            return _verdict(row, error.kind if isinstance(error, BadRowError) else "wrong_row", str(error))
        images = conversation.images
        opened = [one for one in images if one[:4].lower() != "http" or not is_address(one)] if self.has_images else []
        counts = {"num_images": len(opened), "num_unopened": len(images) - len(opened)}
        for one in opened:
            fault = self._fault(one)
            if fault is not None:
                return {**counts, "image": one, **_verdict(row, *fault)}
        counts["notices"] = notices
        return {**counts, "row": row} if self.keeps_rows else counts

    def _fault(self, image: str) -> tuple[str, str] | None:
        """Return kind and reason why an image cannot be used, None if it can."""
        if image not in self._known:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[image] = self._opened(image)
        return self._known[image]

    def _opened(self, image: str) -> tuple[str, str] | None:
        if self.is_named and _leaves(image, self.folders):
            return "wrong_row", f"the image {image!r} is outside of the image folder"
        try:
            path = find_image(image, self.folders)
            _ = read_image_size(path) if self.is_fast else load_image(path, allow_url=False).size
        except MissingImageError as error:
            return MISSING, f"{error}{self._suggestion(image)}"
        except ImageError as error:
            return UNREADABLE, str(error)
        return None

    def _suggestion(self, image: str) -> str:
        """Return where an image with another ending or other capitals is, "" for none."""
        if os.path.isabs(image):
            return ""
        for folder in self.folders:
            found = self._trees.setdefault(folder, ImageTree(folder)).find(image)
            if found:
                return f"; there is {os.path.join(folder, found)}"
        return ""


def _leaves(image: str, folders: Sequence[str]) -> bool:
    """Return whether a path leads out of the folders: by "..", or as an absolute path of another place."""
    if is_address(image):
        return False
    if ".." in image.replace("\\", "/").split("/"):
        return True
    return os.path.isabs(image) and not any(Path(image).is_relative_to(Path(one).absolute()) for one in folders)


def _verdict(row: dict[str, Any] | None, kind: str, reason: str) -> dict[str, Any]:
    name = row.get("id") if row else None
    return {"kind": kind, "reason": reason, "id": name if isinstance(name, str | int) else None}


def checked_rows(path: Path, check: RowCheck, num_workers: int) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """Yield place, share of the file and verdict of each row of a file, in order."""
    job = Job(path, (), partial(row_texts, path), check, is_heavy=check.has_images)
    with closing(made_rows(job, num_workers)) as rows:
        for where, share, (verdict,) in rows:
            yield where, share, _verdict(None, "not_json", str(verdict)) if isinstance(verdict, Problem) else verdict


def command(arguments: argparse.Namespace) -> int:
    """Print what is wrong; return 1 if there are bad rows, or no rows."""
    paths = row_paths(arguments.files)
    folders = tuple(image_folder(one) for one in arguments.image_folder or ())
    check = RowCheck(folders, bool(folders), arguments.fast, not arguments.no_images, bool(arguments.output))
    tally, num_workers = Tally(), num_workers_of(arguments.workers)
    bad_path, good_path = (name and named_file(name, paths) for name in (arguments.bad_rows, arguments.output))
    if bad_path and good_path and bad_path.resolve() == good_path.resolve():
        raise ValueError(f"--output and --bad_rows both name {good_path}: expected two files")
    with ExitStack() as opened:
        bad = opened.enter_context(_written(bad_path, arguments.overwrite, is_empty_kept=True))
        good = opened.enter_context(_written(good_path, arguments.overwrite))
        rows = opened.enter_context(closing(_all_rows(paths, check, num_workers, tally)))
        for is_bad, row in rows:
            (bad if is_bad else good).add(row)
    print(visible("\n".join([*tally.lines(), *_output_lines(tally, good, bad)])), flush=True)
    if not tally.num_rows:
        notice("there are no rows")
    return 1 if tally.kinds or not tally.num_rows else 0


def _all_rows(
    paths: Sequence[Path], check: RowCheck, num_workers: int, tally: Tally
) -> Generator[tuple[bool, dict[str, Any]], None, None]:
    """Count the rows of files; yield (True, where it is and what is wrong) for a bad row, (False, it) for a good one.

    A good row is yielded only if the check keeps rows.
    """
    for path in paths:
        its_check = check if check.is_named else replace(check, folders=_default_folders(path), _known={})
        with Progress(path.name) as progress, closing(checked_rows(path, its_check, num_workers)) as rows:
            for number, (where, share, verdict) in enumerate(rows, 1):
                tally.add(where, verdict, its_check.folders)
                if "kind" in verdict:
                    what = {key: _shown(verdict[key]) for key in WRITTEN}
                    yield True, {"file": _shown(str(path)), "row": number, "place": _shown(where), **what}
                elif "row" in verdict:
                    yield False, verdict["row"]
                progress.show(number, share)


def _default_folders(path: Path) -> tuple[str, ...]:
    """Return where training looks for images if no folder is named: beside the file, then in the current folder."""
    return (str(path.absolute().parent), str(Path.cwd()))


def _shown(value: Any) -> Any:
    return visible(value) if isinstance(value, str) else value


@dataclass
class _Output:
    """A file of rows that is being written. path: None for no file."""

    path: Path | None
    file: RowFile | None = None
    summary: Summary = field(default_factory=Summary)

    def add(self, row: dict[str, Any]) -> None:
        """Write a row, or count why it cannot be written."""
        if self.file is not None:
            self.summary.num_read += 1
            self.summary.add(self.file.write(row) or row)

    def lines(self, kind: str, what: str) -> list[str]:
        """Return what was written as text. kind: of the rows; what: the file has of each of them."""
        if not self.summary.num_read:
            state = "not written" if kind == "good" else "empty"
            return [f"{self.path}: {state}, as there are no {kind} rows"]
        written = f"{self.path}: {plural(self.summary.num_written, f'{kind} row')}, {what}"
        return [written, *(f"  {line}" for line in self.summary.lines()[1:])]


def _output_lines(tally: Tally, good: _Output, bad: _Output) -> list[str]:
    """Return what was written, and the options that write what was not."""
    lines = [] if good.path is None else good.lines("good", "as they were")
    lines += [] if bad.path is None else bad.lines("bad", "with place and reason")
    left = [] if good.path or not tally.num_good else ["--output FILE writes the good rows"]
    left += [] if bad.path else ["--bad_rows FILE lists the bad rows"]
    return [*lines, *([", ".join(left)] if tally.num_bad and left else [])]


class _NoRowsError(Exception):
    """Keeps an empty file from being renamed."""


@contextmanager
def _written(path: Path | None, is_overwriting: bool, *, is_empty_kept: bool = False) -> Iterator[_Output]:
    """Yield an output, which appears at the end of the block. is_empty_kept: also without a row.

    Raises OutputError over a foreign file.
    """
    output = _Output(path)
    if path is None:
        yield output
        return
    before = content_of(path)
    if not is_overwriting:
        check_own(path, before, read_record(path), NAME)
    with suppress(_NoRowsError), replacing(path) as file:
        output.file = form_of(path)(file)
        yield output
        if not output.summary.num_written and not is_empty_kept:
            raise _NoRowsError
        content = output.file.finish()
        replaced = before if before != content else None
        write_record(path, Record({"converter": NAME}, content, replaced, output.summary))


CONVERTER = Converter(
    name=NAME,
    description="check rows as training reads them, and open all their images; exit code 1 if there are bad rows",
    files="any files of rows that training reads (a JSON list, or one JSON object a line)",
    example="validate all.jsonl --image_folder playground/data --output good.jsonl --bad_rows bad.jsonl",
    arguments=(
        FILES,
        Argument(
            "--image_folder",
            "folders in which the images are looked up, in order (default: that of the file, then the current one)",
            False,
            {"nargs": "+", "metavar": "DIR"},
        ),
        Argument("--output", "file to write the good rows to, as they are", False, {"metavar": "FILE"}),
        Argument("--bad_rows", "file to write the bad rows to: where, which, and why", False, {"metavar": "FILE"}),
        Argument("--fast", "read only the headers of images: cut files are not found", False, SWITCH),
        Argument("--no_images", "do not open images", False, SWITCH),
        Argument("--overwrite", "replace files that this command did not write", False, SWITCH),
    ),
    has_images=True,
    command=command,
)
