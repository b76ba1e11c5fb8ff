"""What the sets have in common whose images are in Parquet files: they are written to image files."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ...terminal.log import notice
from ..converter import Argument
from ..images import save_image
from ..job import Job
from ..paths import RawPath, files_in, raw_folder, user_path
from ..readers import json_rows
from ..row import Placed, llava_row
from ..row_files import ParquetRows

MAX_NAMED = 5  # files in a notice


class Figure(NamedTuple):
    """A row with its image. file: its path in the image folder."""

    id: str
    file: str
    image: Any
    question: str
    answer: str


def arguments_for(rule: str) -> tuple[Argument, ...]:
    """Return the arguments. rule: which number in a file's name counts, for the help."""
    return (
        Argument("--input_dir", "folder of the Parquet files"),
        Argument("--output_jsonl_dir", "folder for the rows, a .jsonl for each Parquet file"),
        Argument(
            "--output_parquet_dir", "folder for a copy of the rows as Parquet files (default: none)", is_required=False
        ),
        Argument(
            "--parquet_range",
            f"files to read: from A to less than B, where {rule}",
            options={"type": int, "nargs": 2, "metavar": ("A", "B")},
        ),
        Argument("--output_image_dir", "folder for the images"),
        Argument("--image_prefix", "path of that folder in the rows; the folder's name must end with it"),
    )


def selected(arguments: argparse.Namespace, number_of: Callable[[str], int | None], expected: str) -> list[RawPath]:
    """Return the Parquet files whose number is in the range, by name. Raises ValueError if there are none.

    number_of: returns None for a name that is not of the data set, which is reported. expected: form of the names.
    """
    folder = raw_folder(arguments.input_dir)
    first, end = arguments.parquet_range
    if first >= end:
        raise ValueError(f"--parquet_range {first} {end} has no number: the end is excluded, so it must be larger")
    numbers = {path: number_of(path.name) for path in files_in(folder, ".parquet")}
    foreign = [path.name for path, number in numbers.items() if number is None]
    if foreign:
        more = f" and {len(foreign) - MAX_NAMED} more" if len(foreign) > MAX_NAMED else ""
        notice(f"not read: {', '.join(foreign[:MAX_NAMED])}{more}, whose names are not {expected}")
    known = {path: number for path, number in numbers.items() if number is not None}
    if not known:
        raise ValueError(f"{folder} has no files {expected}")
    chosen = [path for path, number in known.items() if first <= number < end]
    if not chosen:
        least, most = min(known.values()), max(known.values())
        raise ValueError(f"--parquet_range {first} {end} selects no file: the numbers go from {least} to {most}")
    return chosen


def image_jobs(
    arguments: argparse.Namespace,
    paths: Sequence[RawPath],
    rows: Callable[[RawPath], Iterable[Placed]],
    settings: dict[str, Any],
) -> list[Job]:
    """Return a job for each Parquet file, and one for its copy if that is wanted. rows: yields Figures."""
    images = user_path(arguments.output_image_dir).absolute()
    prefix = _checked_prefix(images, arguments.image_prefix)
    target = user_path(arguments.output_jsonl_dir)
    settings = {**settings, "image_prefix": prefix, "output_image_dir": str(images)}
    made = []
    for path in paths:
        output = target / f"{path.name.removesuffix('.parquet')}.jsonl"
        scratch = images / f".{output.name}.tmp"
        convert = partial(_save, images, prefix, scratch, arguments.overwrite)
        made.append(Job(output, (path,), partial(rows, path), convert, settings, is_heavy=True, scratch=scratch))
        if arguments.output_parquet_dir is not None:
            copy = user_path(arguments.output_parquet_dir) / path.name
            made.append(Job(copy, (output,), partial(json_rows, output), dict, form=ParquetRows))
    return made


def _save(images: Path, prefix: str, scratch: Path, is_overwriting: bool, figure: Figure) -> dict[str, Any]:
    """Write the image of a figure and return its row."""
    row = llava_row(figure.id, f"{prefix}/{figure.file}", figure.question, figure.answer)
    save_image(figure.image, images / figure.file, scratch=scratch, is_overwriting=is_overwriting)
    return row


def _checked_prefix(images: Path, prefix: str) -> str:
    """Return the prefix without slashes at its ends. Raises ValueError if the image folder does not end with it.

    LLaVA finds an image at IMAGE_FOLDER/PREFIX/NAME, so that there has to be such a folder above.
    """
    parts = PurePosixPath(prefix.strip("/")).parts
    if not parts or ".." in parts or images.parts[-len(parts) :] != parts:
        raise ValueError(
            f"--output_image_dir {images} does not end with --image_prefix {prefix}: rows name their images from a "
            f"folder above, so expected a folder like {images.parent / '/'.join(parts)}"
        )
    return "/".join(parts)


def bytes_of(image: Any) -> Any:
    """Return the content of an image column: a struct of bytes and path, or the bytes."""
    return image.get("bytes") if isinstance(image, dict) else image
