"""One output and the way to it: read rows, convert them, in several processes if they hold images, and write them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from .. import __version__
from ..data.workers import map_in_processes
from ..output import OutputError, lock_file, replacing
from .paths import RawPath, stamp_of
from .progress import Progress
from .record import Record, check_own, content_of, is_own, read_record, record_path, write_record
from .row import Made, Note, Placed, Problem, RowError
from .row_files import RowFile, form_of
from .summary import Summary

CHUNK = 8  # rows that a process gets at once
FEW = 32  # rows that are converted before other processes would have started
MadeRow = tuple[str, float, list[Made]]  # place, share of the input, what was made
Convert = Callable[[Any], "Made | Iterable[Made]"]


@dataclass(frozen=True)
class Job:
    """One file of LLaVA's rows, and how to make it.

    inputs: the raw files, by which a second run knows that nothing has changed. rows: starts reading them. convert:
    returns what becomes of the value of a row: a dict is written, a Problem counted; it may also return several or
    raise RowError. It must give the same whatever came before. settings: arguments that the output depends on.
    is_heavy: whether converting takes longer than sending a row to another process; `convert` can then be pickled.
    scratch: folder for temporary files, which exists while the job runs; one run at a time can have it.
    form: of the output; None: the one that its name asks for. is_part: of a whole that other jobs have the rest of, so
    that without a row for it now an earlier output is wrong and is removed; other earlier outputs stay.
    """

    output: Path
    inputs: Sequence[RawPath]
    rows: Callable[[], Iterable[Placed]]
    convert: Convert
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_heavy: bool = False
    scratch: Path | None = None
    form: Callable[[BinaryIO], RowFile] | None = None
    is_part: bool = False


class _NothingWrittenError(Exception):
    """Keeps an empty file from being renamed."""


def run_job(name: str, job: Job, *, num_workers: int = 1, is_overwriting: bool = False) -> tuple[Summary, bool]:
    """Write the output of a job; return the counts, and whether it was done before. name: of the converter.

    Without a row to write, nothing is written; see `Job.is_part`. Raises OutputError if the output is one of the
    inputs, or a file that is not an earlier output (is_overwriting allows the latter).
    """
    if job.output.resolve() in [one.resolve() for one in job.inputs if isinstance(one, Path)]:
        raise OutputError(f"{job.output} is an input: name another folder for the output")
    stamps = [stamp_of(one) for one in job.inputs]
    made_of = {"converter": name, "version": __version__, "settings": dict(job.settings), "inputs": stamps}
    record, content = read_record(job.output), content_of(job.output)
    if not is_overwriting:
        check_own(job.output, content, record, name)
        if content is not None and record.content == content and record.made_of == json.loads(json.dumps(made_of)):
            return record.summary, True
    summary = Summary()
    # The scratch folder is removed before the output appears, so that a job that is done has left none behind.
    with suppress(_NothingWrittenError), replacing(job.output) as file, scratch_folder(job.scratch):
        rows = (job.form or form_of(job.output))(file)
        _write_rows(rows, made_rows(job, num_workers), summary, job.output.name)
        if not summary.num_written:
            raise _NothingWrittenError
        new = rows.finish()
        write_record(job.output, Record(made_of, new, content if content != new else None, summary))
    if job.is_part and not summary.num_written and is_own(content, record, name):
        job.output.unlink()
        record_path(job.output).unlink()
    return summary, False


@contextmanager
def scratch_folder(path: Path | None) -> Iterator[None]:
    """Make an empty folder, and remove it at the end. What a killed process left in it is removed first."""
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock_file(path.with_name(f"{path.name}.lock"), f"another process is writing to {path.parent}: wait for it"):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        try:
            yield
        finally:
            shutil.rmtree(path, ignore_errors=True)


def _write_rows(file: RowFile, rows: Iterator[MadeRow], summary: Summary, title: str) -> None:
    with Progress(title) as progress, closing(rows):
        for where, share, made in rows:
            summary.num_read += max(1, sum(not isinstance(one, Note) for one in made))
            for one in made:
                problem = file.write(one) if isinstance(one, dict) else one
                problem = replace(problem, where=problem.where or where) if isinstance(problem, Problem) else problem
                summary.add(problem or one)
            progress.show(summary.num_read, share)


def made_rows(job: Job, num_workers: int) -> Iterator[MadeRow]:
    """Yield the place of each raw row, the share of the input read, and what was made of it, in order."""
    rows = iter(job.rows())
    first = list(islice(rows, FEW)) if job.is_heavy and num_workers > 1 else []
    rows = chain(first, rows)
    if len(first) < FEW:  # the work is not worth the start of processes
        for row in rows:
            yield row.where, row.share, made_of_row(job.convert, row.value)
        return
    task = partial(_convert_chunk, job.convert)
    try:
        with closing(map_in_processes(task, _chunks(rows), num_processes=num_workers, method="spawn")) as results:
            for chunk in results:
                yield from chunk
    except ChildProcessError as error:
        raise ValueError(f"{str(error).partition(':')[0]}; if memory ran out, lower --workers") from None


def made_of_row(convert: Convert, value: Any) -> list[Made]:
    """Return what becomes of a row."""
    if isinstance(value, Problem):
        return [value]
    made: list[Made] = []
    try:
        result = convert(value)
        if isinstance(result, dict | Problem):
            return [result]
        made.extend(result)
    except RowError as error:
        made.append(error.problem)
    return made


def _convert_chunk(convert: Convert, rows: Sequence[Placed]) -> list[MadeRow]:
    return [(row.where, row.share, made_of_row(convert, row.value)) for row in rows]


def _chunks(rows: Iterator[Placed]) -> Iterator[list[Placed]]:
    while chunk := list(islice(rows, CHUNK)):
        yield chunk
