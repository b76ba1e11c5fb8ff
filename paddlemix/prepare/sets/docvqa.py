"""DocVQA: questions about scanned documents (SP-DocVQA) and about infographics.

Raw files: an object with the list "data" of {"questionId", "question", "image" or "image_local_name", "answers", ...}.
The first answer is taken. The files of the test have no answers and are not converted.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from ..converter import Converter
from ..job import Job
from ..readers import json_list
from ..row import RowError, file_name_of, llava_row, object_of, text_of, texts_of
from .folders import ARGUMENTS, folder_jobs

SP_SPLITS = ("train_v1.0_withQT", "val_v1.0_withQT")
INFOGRAPHICS_SPLITS = ("infographicsVQA_train_v1.0", "infographicsVQA_val_v1.0_withQT")


def convert(folder: str, key: str, value: Any) -> dict[str, Any]:
    """Return the row of a question. folder: of the images; key: of the image's path, whose last part is its name."""
    row = object_of(value)
    answers = texts_of(row, "answers") if row.get("answers") is not None else []
    answer = next((one for one in answers if one.strip()), "")
    if not answer:
        raise RowError("no answer", f"question {row.get('questionId')} has no answer")
    image = PurePosixPath(file_name_of(row, key)).name
    return llava_row(text_of(row, "questionId"), f"{folder}/{image}", text_of(row, "question"), answer)


def _jobs(splits: tuple[str, ...], folder: str, key: str, arguments: argparse.Namespace) -> list[Job]:
    outputs = {f"{split}.json": f"{split}_llava_jsonl/{split}_llava.jsonl" for split in splits}
    return folder_jobs(arguments, outputs, partial(json_list, key="data"), lambda _: partial(convert, folder, key))


SP_DOCVQA = Converter(
    name="sp_docvqa",
    description="SP-DocVQA: questions about scanned documents",
    files="train_v1.0_withQT.json, val_v1.0_withQT.json (those that are there)",
    example="sp_docvqa --dataset_folder DocVQA/SP-DocVQA/qa",
    arguments=ARGUMENTS,
    jobs=partial(_jobs, SP_SPLITS, "DocVQA/sp_docvqa/images", "image"),
)
INFOGRAPHICS_DOCVQA = Converter(
    name="infographics_docvqa",
    description="InfographicsVQA: questions about infographics",
    files="infographicsVQA_train_v1.0.json, infographicsVQA_val_v1.0_withQT.json (those that are there)",
    example="infographics_docvqa --dataset_folder DocVQA/Infographicsvqa/qa",
    arguments=ARGUMENTS,
    jobs=partial(_jobs, INFOGRAPHICS_SPLITS, "DocVQA/Infographicsvqa/images", "image_local_name"),
)
