"""What the sets have in common whose files lie in one folder under fixed names."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from ...terminal.log import notice
from ..converter import OUTPUT_DIR, Argument
from ..job import Convert, Job
from ..paths import RawPath, inside, output_folder, present, raw_folder
from ..row import Placed

ARGUMENTS = (Argument("--dataset_folder", "folder with the raw files", options={"metavar": "DIR"}), OUTPUT_DIR)


def folder_jobs(
    arguments: argparse.Namespace,
    outputs: Mapping[str, str],
    rows: Callable[[RawPath], Iterable[Placed]],
    convert: Callable[[str], Convert],
    settings: Mapping[str, Any] | None = None,
) -> list[Job]:
    """Return a job for each raw file that is there, and print which are not.

    outputs: raw file -> file to write, both relative. convert: gets the name of the raw file.
    """
    folder = raw_folder(arguments.dataset_folder)
    names, missing = present(folder, list(outputs))
    if missing:
        notice(f"not there, so not converted: {', '.join(missing)}")
    target = output_folder(folder, arguments.output_dir)
    made = []
    for name in names:
        path = inside(folder, name)
        made.append(Job(target / outputs[name], (path,), partial(rows, path), convert(name), settings or {}))
    return made
