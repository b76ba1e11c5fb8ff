"""ArxivCap: figures of papers with their captions.

Raw files: arXiv_src_YYMM_NNN.parquet with papers; the column caption_images is a list of {"caption", "cil_pairs":
[{"image_file", "image": {"bytes", "path"}, ...}]}. Figures of several parts are dropped: the caption is about all.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from ..converter import Converter
from ..job import Job
from ..paths import RawPath
from ..readers import parquet_rows
from ..row import Placed, Problem, RowError, file_name_of, object_of, shown, text_of
from .parquet_images import Figure, arguments_for, bytes_of, image_jobs, selected

PROMPT = "Create a caption for the provided figure."
_NAME = re.compile(r"arXiv_src_(\d{4})_\d+\.parquet")


def figures(path: RawPath) -> Iterator[Placed]:
    """Yield the figures of a file. A second figure with the same image file is a Problem."""
    seen: set[str] = set()
    for paper in parquet_rows(path, ["caption_images"]):
        if isinstance(paper.value, Problem):
            yield paper
            continue
        found = paper.value["caption_images"] or []
        if not isinstance(found, list):
            raise ValueError(f"{path}: caption_images is {shown(found)}, expected a list of figures")
        for number, figure in enumerate(found, 1):
            yield Placed(f"{paper.where} figure {number}", figure_or_problem(figure, seen), paper.share)


def figure_or_problem(value: Any, seen: set[str]) -> Figure | Problem:
    """Return a figure, or why it is dropped. seen: the image files before, to which the figure's is added."""
    try:
        return _figure(object_of(value), seen)
    except RowError as error:
        return error.problem


def _figure(figure: Mapping[str, Any], seen: set[str]) -> Figure:
    parts = figure.get("cil_pairs") or []
    num_parts = len(parts) if isinstance(parts, list) else 0
    if num_parts != 1:
        raise RowError(
            "a figure of several parts" if num_parts else "a figure without an image",
            f"the figure has {num_parts} images, expected one",
        )
    part = object_of(parts[0])
    file = file_name_of(part, "image_file")
    if file in seen:
        raise RowError("the image file occurs before", f"{file} is the image of a figure before")
    caption = text_of(figure, "caption")
    seen.add(file)
    return Figure(PurePosixPath(file).stem, file, bytes_of(part.get("image")), PROMPT, caption)


def month_of(name: str) -> int | None:
    """Return the year and month in a file's name as one number, 2304 for April 2023."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """Return a job for each Parquet file of the months."""
    return image_jobs(arguments, selected(arguments, month_of, "arXiv_src_YYMM_NNN.parquet"), figures, {})


CONVERTER = Converter(
    name="arxivcap",
    description="ArxivCap: figures of papers with their captions",
    files="a folder of arXiv_src_YYMM_NNN.parquet",
    example="arxivcap --input_dir ArxivCap/data --output_jsonl_dir ArxivCap/llava_processed_jsons "
    "--output_parquet_dir ArxivCap/llava_processed_parquet --parquet_range 2301 2305 "
    "--output_image_dir ArxivCap/images --image_prefix ArxivCap/images",
    arguments=arguments_for(
        "a number is year and month: 2301 2305 is January to April 2023, 3 11 March to October 2000"
    ),
    jobs=jobs,
    has_images=True,
)
