"""What a converter is, and how it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.measure import default_workers
from ..output import OutputError
from ..terminal.log import notice
from ..terminal.visible import visible
from .job import Job, run_job


@dataclass(frozen=True)
class Argument:
    """An argument of a converter: its name with dashes, its help, and what argparse takes besides."""

    name: str
    help: str
    is_required: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


OUTPUT_DIR = Argument("--output_dir", "folder to write into (default: that of the raw files)", is_required=False)
COMPAT_IDS = Argument(
    "--compat-ids",
    "name rows by their numbers alone, which repeat in each file, as Cerebras' script does",
    is_required=False,
    options={"action": "store_true"},
)


@dataclass(frozen=True)
class Converter:
    """A data set, or a tool for rows.

    name: of the command. description: one line. files: the files that are expected, for the help. example: a command
    line without `paddlemix prepare`. jobs: returns the outputs to make; raises ValueError for arguments that do not
    fit. has_images: whether rows are converted in several processes. command: for a tool that is no conversion, instead
    of jobs; returns the exit code.
    """

    name: str
    description: str
    files: str
    example: str
    arguments: Sequence[Argument]
    jobs: Callable[[argparse.Namespace], Sequence[Job]] | None = None
    has_images: bool = False
    command: Callable[[argparse.Namespace], int] | None = None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments to the parser of the converter."""
        for one in self.arguments:
            required = {"required": True} if one.is_required else {}
            parser.add_argument(one.name, help=one.help, **required, **one.options)
        if self.has_images:
            text = "number of processes; the output does not depend on it (default: one per core, at most 8)"
            parser.add_argument("--workers", type=int, default=None, metavar="N", help=text)
        if self.jobs is not None:
            text = "replace files that this command did not write, and make everything again"
            parser.add_argument("--overwrite", action="store_true", help=text)


def run(converter: Converter, arguments: argparse.Namespace) -> int:
    """Run a converter and print what was read, written and dropped; return 1 if nothing was written, else 0."""
    if converter.command is not None:
        return converter.command(arguments)
    num_workers = num_workers_of(arguments.workers) if converter.has_images else 1
    jobs = converter.jobs(arguments)
    _check_outputs(jobs)
    num_written = sum(_run_one(converter.name, job, num_workers, arguments) for job in jobs)
    if not num_written:
        notice("nothing was written: no row can be used")
    return 0 if num_written else 1


def _check_outputs(jobs: Sequence[Job]) -> None:
    """Raise OutputError if two jobs would write one file: the second would replace the first one's rows."""
    made: dict[Path, Job] = {}
    for job in jobs:
        own = job.output.resolve()
        if own in made:
            inputs = " and ".join(str(one.inputs[0]) for one in (made[own], job))
            raise OutputError(f"{inputs} would both become {job.output}: convert them one by one, to different folders")
        made[own] = job


def _run_one(name: str, job: Job, num_workers: int, arguments: argparse.Namespace) -> int:
    """Run a job and print its counts; return the number of rows that it has written now or before."""
    if any(isinstance(one, Path) and not one.exists() for one in job.inputs):  # a job before has written nothing
        print(visible(f"{job.output}: not written, as there are no rows"), flush=True)
        return 0
    was_there = job.output.exists()
    summary, was_done = run_job(name, job, num_workers=num_workers, is_overwriting=arguments.overwrite)
    state = "unchanged" if was_done else "written" if summary.num_written else "not written"
    if was_there and not job.output.exists():
        state = "removed, as no row belongs to it any more"
    print(visible("\n".join([f"{job.output}: {state}", *summary.lines()])), flush=True)
    return summary.num_written


def num_workers_of(number: int | None) -> int:
    """Return the number of processes for --workers. Raises ValueError for one that cannot be."""
    if number is not None and not 1 <= number <= 256:
        raise ValueError(f"--workers is {number}: expected at least 1 and at most 256")
    return number or default_workers()
