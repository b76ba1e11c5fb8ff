"""ChartQA: questions about charts.

Raw files: {split}/{split}_{human,augmented}.json for train, val and test, each a JSON list of {"imgname", "query",
"label"}. Images: ChartQA_Dataset/{split}/png/.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

from ..converter import COMPAT_IDS, Converter
from ..job import Job
from ..paths import RawPath
from ..readers import json_rows
from ..row import Placed, Problem, file_name_of, llava_row, object_of, text_of
from .folders import ARGUMENTS, folder_jobs

SPLITS = ("train", "val", "test")
SUBSETS = ("human", "augmented")


def numbered_rows(path: RawPath) -> Iterator[Placed]:
    """Yield the rows with their numbers from 0, by which they are named."""
    for number, row in enumerate(json_rows(path)):
        yield row if isinstance(row.value, Problem) else row._replace(value=(number, row.value))


def convert(split: str, prefix: str, value: tuple[int, Any]) -> dict[str, Any]:
    """Return the row of a question. prefix: of its id, before the number."""
    number, row = value[0], object_of(value[1])
    image = f"ChartQA_Dataset/{split}/png/{file_name_of(row, 'imgname')}"
    return llava_row(f"{prefix}{number}", image, text_of(row, "query"), text_of(row, "label"))


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """Return a job for each file that is there."""
    outputs = {}
    for split in SPLITS:
        for subset in (f"{split}_{one}" for one in SUBSETS):
            outputs[f"{split}/{subset}.json"] = f"{split}/{subset}_llava_jsonl/{subset}_llava.jsonl"

    def convert_of(name: str):
        split, _, file = name.partition("/")
        return partial(convert, split, "" if arguments.compat_ids else file.removesuffix(".json") + "_")

    return folder_jobs(arguments, outputs, numbered_rows, convert_of, {"compat_ids": arguments.compat_ids})


CONVERTER = Converter(
    name="chartqa",
    description="ChartQA: questions about charts",
    files="{train,val,test}/{train,val,test}_{human,augmented}.json (those that are there)",
    example="chartqa --dataset_folder ChartQA_Dataset",
    arguments=(*ARGUMENTS, COMPAT_IDS),
    jobs=jobs,
)
