"""The output_dir of a run: whether it may be written to, which checkpoints are whole, and what may be removed.

A checkpoint is written as `.checkpoint-N.partial` and renamed when every process has written its part. Its run.json is
written first and marks it as a checkpoint of this program. No folder without that mark is ever removed.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checkpoints.output_folder import MODEL_FILES, NOTE, OutputFolder, finish_exchange
from ..output import OutputError, check_file, is_leftover, lock_file, remove_leftovers, sync, sync_tree, write_json
from ..tensor_files.stored import CheckpointError, read_json
from ..terminal.log import notice

COMMAND = "train"
COMPLETE = "complete"  # file in a checkpoint, written after all others
RUN = "run.json"  # file in a checkpoint, written before all others: the facts of its run, see run_facts
FORMAT = "paddlemix_run"
BEGUN = "begun"  # in run.json: when the checkpoint was begun, in nanoseconds; copying changes the times of files
PREFIX = "checkpoint-"
REMOVABLE = re.compile(r"checkpoint-\d+")
# A checkpoint whose name is taken by something else gets a second number. `last_checkpoint` considers it too.
NAMES = re.compile(r"checkpoint-\d+(-\d+)?")
UNFINISHED = re.compile(r"\.checkpoint-\d+(-\d+)?\.(partial|old)")
LOCK = ".paddlemix.lock"
# Names that may exist before a run begins: of `paddlemix doctor`'s trial, of launchers and of reporters.
EXPECTED_BEFORE = (".doctor", LOCK, "log", "logs", "runs")
TASKS = "eval_tasks"  # folder with the answers of the last evaluation, see task_runs
# Files in the folder that a killed run may have left half written, under a temporary name.
WRITTEN = (NOTE, "config.json", "model.safetensors", "bad_step.json", "eval_answers.jsonl", "eval_results.json")
STATE = "trainer_state.json"  # written by paddlenlp, into the output_dir and the checkpoints
LOG = "run.log"  # what libraries print, see terminal/hidden.py
# All files that a run writes there except the model's.
SIDE_OUTPUTS = (*WRITTEN, STATE, "bad_samples.jsonl", "all_results.json", "train_results.json", "loss.png", LOG)


def log_name(rank: int) -> str:
    """Return the name of a process's file for what libraries print."""
    return LOG if rank == 0 else f"run.rank{rank}.log"


@contextmanager
def claim_folder(output_dir: str | Path, sources: Sequence[Path], *, is_overwriting: bool) -> Iterator[None]:
    """Lock a folder for a run's output, and remove what a killed run left half written.

    One process of a run calls it. sources: folders that are read. Raises CheckpointError for a folder with anything
    but a run's output unless is_overwriting, and OutputError for a folder that another run is writing to.
    """
    folder = check_folder(output_dir, sources, is_overwriting=is_overwriting)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with lock_file(folder / LOCK, f"another run is writing to {folder}: wait for it, or name another output_dir"):
            _prepare(folder)
            yield
    finally:
        if is_new and {path.name for path in folder.iterdir()} == {NOTE}:  # the run wrote nothing
            shutil.rmtree(folder)


def _prepare(folder: Path) -> None:
    """Mark the folder as a run's, remove what is half written, and report checkpoints of other programs."""
    finish_exchange(folder)
    if not (folder / NOTE).is_file() or read_json(folder / NOTE).get("command") != COMMAND:
        write_json(folder / NOTE, {"command": COMMAND, "files": []})
    remove_unfinished(folder)
    for name in WRITTEN:
        remove_leftovers(folder / name)
    for path in (folder / TASKS).glob(".*.jsonl.*.tmp"):
        remove_leftovers(path.with_name(path.name[1:].rpartition(".jsonl.")[0] + ".jsonl"))
    others = [path.name for path in sorted(folder.glob(f"{PREFIX}*")) if not is_removable(path)]
    if others:
        notice(f"in {folder} {', '.join(others)} is not from this program or an earlier version: it is left alone")


def check_folder(output_dir: str | Path, sources: Sequence[Path], *, is_overwriting: bool) -> Path:
    """Return the real path of a run's folder. Raises CheckpointError like `claim_folder`."""
    place = OutputFolder(Path(output_dir), COMMAND, is_overwriting, "overwrite_output_dir", is_known=_is_of_a_run)
    folder = place.checked(sources).folder
    # No folder or link may have the name of a file, or of a checkpoint, that the run will write.
    tasks = folder / TASKS
    if os.path.lexists(tasks) and (tasks.is_symlink() or not tasks.is_dir()):
        raise CheckpointError(f"{tasks} is not a folder: move it away, this run will write there")
    for path in sorted((*folder.iterdir(), *tasks.glob("*.jsonl"))) if folder.is_dir() else ():
        try:
            is_written = MODEL_FILES.fullmatch(path.name) or path.name in (*SIDE_OUTPUTS, LOCK)
            if is_written or path.parent == tasks:
                check_file(path)
        except OutputError as error:
            raise CheckpointError(f"{error}; or move it away, this run will write there") from None
        if UNFINISHED.fullmatch(path.name) and not _is_unfinished(path):
            raise CheckpointError(
                f"{path} has the name of an unfinished checkpoint but was not begun by this program: move it away"
            )
    return folder


def _is_of_a_run(folder: Path) -> bool:
    """Return whether a folder without a note is a run's: an earlier version's, PaddleMIX's, or the doctor's trial."""
    if (folder / NOTE).is_file():
        return False
    return (
        (folder / STATE).is_file()
        or any(folder.glob(f"{PREFIX}*/{STATE}"))
        or all(_is_expected_before(path) for path in folder.iterdir())
    )


def _is_expected_before(path: Path) -> bool:
    """Return whether a path may exist before a run begins: a launcher's log, or the half note of a killed run."""
    return path.name in EXPECTED_BEFORE or path.suffix == ".log" or is_leftover(path.name, NOTE)


def is_removable(path: Path) -> bool:
    """Return whether a path is a checkpoint that this program began under the name of its step."""
    return REMOVABLE.fullmatch(path.name) is not None and _is_replaceable(path)


def _is_replaceable(path: Path) -> bool:
    return not path.is_symlink() and path.is_dir() and _has_mark(path)


def _has_mark(folder: Path) -> bool:
    try:
        return (folder / RUN).is_file() and FORMAT in read_json(folder / RUN)
    except CheckpointError:
        return False


def remove_unfinished(output_dir: Path) -> None:
    """Remove what a killed run left half written, and rename a whole checkpoint that was not renamed yet."""
    for folder in sorted(output_dir.glob(f".{PREFIX}*")):
        if not UNFINISHED.fullmatch(folder.name) or not _is_unfinished(folder):
            continue
        if folder.suffix == ".partial" and _has_mark(folder) and (folder / COMPLETE).is_file():
            _rename(folder, output_dir / folder.name[1:].removesuffix(".partial"))
        else:
            _remove(folder)
    for folder in output_dir.glob(f"{PREFIX}*"):
        if is_removable(folder) and not (folder / COMPLETE).is_file():  # its removal was interrupted
            _remove(folder)


def _is_unfinished(folder: Path) -> bool:
    """Return whether a killed run can have left this folder: it has the mark, or nothing but half of a run.json."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    remove_leftovers(folder / RUN)
    return _has_mark(folder) or not any(folder.iterdir())


def _remove(folder: Path) -> None:
    """Remove a checkpoint of this program. If interrupted, what is left has the mark and is not complete."""
    _empty(folder)
    shutil.rmtree(folder)


def _empty(folder: Path) -> None:
    """Remove everything in a checkpoint but its mark."""
    (folder / COMPLETE).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.name != RUN:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextmanager
def new_checkpoint(
    output_dir: Path,
    step: int,
    facts: Mapping[str, Any],
    *,
    is_writer: bool,
    wait_for_all: Callable[[], None],
    is_shared: bool = False,
) -> Iterator[tuple[Path, Path]]:
    """Yield a folder for the checkpoint of a step, and the path that it is renamed to when all processes are done.

    facts: see `run_facts`. is_writer: true in one process. wait_for_all: waits for all processes. is_shared: there are
    several processes; the others may go on writing when the writer has failed, so that the mark must stay.
    """
    final = free_name(output_dir, step)
    folder = output_dir / f".{final.name}.partial"
    if is_writer:
        if _is_replaceable(folder):
            _remove(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RUN, {FORMAT: 1, BEGUN: _now(output_dir), **facts})
    try:
        wait_for_all()
        yield folder, final
        wait_for_all()
        if is_writer:
            (folder / COMPLETE).touch()
            sync_tree(folder)
            _rename(folder, final)
    except BaseException:
        if is_writer and folder.is_dir():
            _empty(folder) if is_shared else shutil.rmtree(folder, ignore_errors=True)
        raise
    wait_for_all()


def free_name(output_dir: Path, step: int) -> Path:
    """Return the path for a step's checkpoint, with a second number if its name is taken by something else."""
    path, number = output_dir / f"{PREFIX}{step}", 1
    while os.path.lexists(path) and not _is_replaceable(path):
        path, number = output_dir / f"{PREFIX}{step}-{number}", number + 1
    return path


def _rename(folder: Path, final: Path) -> None:
    """Rename a whole checkpoint; one that has the name is removed afterwards."""
    old = final.with_name(f".{final.name}.old")
    if final.is_dir():
        os.replace(final, old)
    os.replace(folder, final)
    sync(final.parent)
    if _is_replaceable(old):
        _remove(old)


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """Return the whole checkpoint that was begun last, or None; the highest number may be an older run's.

    Of two with the same time it is the one with the higher number.
    """
    return max(_whole(Path(output_dir)), key=_age, default=None)


def _whole(output_dir: Path) -> list[Path]:
    return [mark.parent for mark in output_dir.glob(f"{PREFIX}*/{COMPLETE}") if NAMES.fullmatch(mark.parent.name)]


def _age(checkpoint: Path) -> tuple[int, int, str]:
    begun = read_json(checkpoint / RUN).get(BEGUN) if _has_mark(checkpoint) else None
    begun = begun if isinstance(begun, int) else (checkpoint / COMPLETE).stat().st_mtime_ns
    # The longer of two names has the higher number.
    return begun, len(checkpoint.name), checkpoint.name


def _now(output_dir: Path) -> int:
    """Return the time in nanoseconds, but later than all whole checkpoints: another machine's clock may be behind."""
    return max([time.time_ns(), *(_age(path)[0] + 1 for path in _whole(output_dir))])


def remove_old(output_dir: Path, limit: int | None, kept: Sequence[str | None]) -> None:
    """Remove the oldest whole checkpoints of this program above a limit, None or 0 for no limit.

    kept: checkpoints to keep, besides the newest one.
    """
    whole = sorted((path for path in _whole(output_dir) if is_removable(path)), key=_age)
    names = {Path(path).name for path in kept if path is not None}
    removable = [path for path in whole[:-1] if path.name not in names]
    for path in removable[: max(len(whole) - limit, 0) if limit and limit > 0 else 0]:
        _remove(path)
