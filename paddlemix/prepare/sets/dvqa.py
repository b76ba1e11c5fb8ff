"""DVQA: questions about bar charts.

Raw files: train_qa.json, val_easy_qa.json and val_hard_qa.json, each a JSON list of {"question", "question_id",
"answer", "image", ...} of several hundred MB. Images: DVQA/images/.
"""

from __future__ import annotations

import argparse
from typing import Any

from ..converter import Converter
from ..job import Job
from ..readers import json_rows
from ..row import file_name_of, llava_row, object_of, text_of
from .folders import ARGUMENTS, folder_jobs

SPLITS = ("train_qa", "val_easy_qa", "val_hard_qa")


def convert(value: Any) -> dict[str, Any]:
    """Return the row of a question."""
    row = object_of(value)
    image = f"DVQA/images/{file_name_of(row, 'image')}"
    return llava_row(text_of(row, "question_id"), image, text_of(row, "question"), text_of(row, "answer"))


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """Return a job for each file that is there."""
    outputs = {f"{split}.json": f"{split}_llava_jsonl/{split}_llava.jsonl" for split in SPLITS}
    return folder_jobs(arguments, outputs, json_rows, lambda _: convert)


CONVERTER = Converter(
    name="dvqa",
    description="DVQA: questions about bar charts",
    files="train_qa.json, val_easy_qa.json, val_hard_qa.json (those that are there)",
    example="dvqa --dataset_folder DVQA/qa",
    arguments=ARGUMENTS,
    jobs=jobs,
)
