"""JSON lists to files with one row a line."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from ..converter import Argument, Converter
from ..job import Job
from ..json_stream import JsonStream
from ..paths import RawPath, files_in, opened, output_folder, raw_folder
from ..row import object_of
from ..training_rows import rows_of


def convert(value: Any) -> dict[str, Any]:
    """Return a row as it is."""
    return dict(object_of(value))


def check_rows(path: RawPath) -> None:
    """Raise ValueError for a file that is one object."""
    with opened(path) as file:
        stream = JsonStream(file, str(path))
        if stream.peek() == "{":
            stream.value()
            if not stream.peek():
                raise ValueError(f"{path} holds one object, expected a JSON list of rows")


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """Return a job for each .json file."""
    folder = raw_folder(arguments.input_dir)
    paths = files_in(folder, ".json")
    if not paths:
        raise ValueError(f"{folder} has no .json files")
    for path in paths:
        check_rows(path)
    if arguments.output_dir is None:
        target = output_folder(folder, None)
        target = target.with_name(f"{target.resolve().name}_to_jsonl")
    else:
        target = output_folder(folder, arguments.output_dir)
    names = [f"{path.name.removesuffix('.json')}.jsonl" for path in paths]
    return [
        Job(target / name, (path,), partial(rows_of, [path]), convert) for name, path in zip(names, paths, strict=True)
    ]


CONVERTER = Converter(
    name="convert_json2jsonl",
    description="JSON lists to files with one row a line",
    files="a folder of .json files, each a list of objects",
    example="convert_json2jsonl --input_dir jsons",
    arguments=(
        Argument("--input_dir", "folder of the .json files"),
        Argument("--output_dir", "folder to write into (default: INPUT_DIR_to_jsonl)", is_required=False),
    ),
    jobs=jobs,
)
