"""The output_dir of a run: whose it is, which checkpoints in it are whole, and what may be removed from it.

A checkpoint is built in `.checkpoint-N.partial` and takes its name when every process has written its part. Its
run.json, written first, says that this program began it; nothing else is ever removed.
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
COMPLETE = "complete"  # a checkpoint folder holds this file once everything else in it is written
RUN = "run.json"  # of a checkpoint: what it belongs to, see run_facts; there from its beginning
FORMAT = "paddlemix_run"
BEGUN = "begun"  # in run.json: when the checkpoint was, in nanoseconds; a copied folder has other times of its files
PREFIX = "checkpoint-"
OWN = re.compile(r"checkpoint-\d+")
# A checkpoint whose name was taken by something else has a second number; `last_checkpoint` knows it, too.
NAMES = re.compile(r"checkpoint-\d+(-\d+)?")
UNFINISHED = re.compile(r"\.checkpoint-\d+(-\d+)?\.(partial|old)")
LOCK = ".paddlemix.lock"
# What may be there before a run begins: where `paddlemix doctor` tries it, what its launcher and reporters write.
MADE_BEFORE = (".doctor", LOCK, "log", "logs", "runs")
# Files beside the result, of which a kill may have left half a one under a temporary name.
WRITTEN = (NOTE, "config.json", "model.safetensors", "bad_step.json", "eval_answers.jsonl", "eval_results.json")
STATE = "trainer_state.json"  # paddlenlp's, in its output_dir and checkpoints
# What is written there besides the model's files.
BESIDE = (*WRITTEN, STATE, "bad_samples.jsonl", "all_results.json", "train_results.json", "loss.png")


@contextmanager
def claimed(output_dir: str | Path, sources: Sequence[Path], *, is_overwriting: bool) -> Iterator[None]:
    """Hold a folder for a run's output, cleaned of what a killed run left half written.

    One process of a run calls it. sources: folders that are read. Raises CheckpointError for a folder with something
    else in it, without is_overwriting, and OutputError for one that another run writes to.
    """
    folder = check_place(output_dir, sources, is_overwriting=is_overwriting)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with lock_file(folder / LOCK, f"another run is writing to {folder}: wait for it, or name another output_dir"):
            _begin(folder)
            yield
    finally:
        if is_new and {path.name for path in folder.iterdir()} == {NOTE}:  # the run ended before it began
            shutil.rmtree(folder)


def _begin(folder: Path) -> None:
    """Note whose folder it is, remove what is half written, and name what is not this program's."""
    finish_exchange(folder)
    if not (folder / NOTE).is_file() or read_json(folder / NOTE).get("command") != COMMAND:
        write_json(folder / NOTE, {"command": COMMAND, "files": []})
    remove_unfinished(folder)
    for name in WRITTEN:
        remove_leftovers(folder / name)
    others = [path.name for path in sorted(folder.glob(f"{PREFIX}*")) if not is_own(path)]
    if others:
        notice(f"in {folder} {', '.join(others)} is not from this program or an earlier version: it is left alone")


def check_place(output_dir: str | Path, sources: Sequence[Path], *, is_overwriting: bool) -> Path:
    """Return the real path of a run's folder. Raises CheckpointError as `claimed`."""
    place = OutputFolder(Path(output_dir), COMMAND, is_overwriting, "overwrite_output_dir", is_known=_is_of_a_run)
    folder = place.checked(sources).folder
    if folder.is_dir():
        _check_names(folder)
    return folder


def _check_names(folder: Path) -> None:
    """Raise CheckpointError where a run could not write at its end, or would have to write into somebody's folder."""
    for path in sorted(folder.iterdir()):
        try:
            if MODEL_FILES.fullmatch(path.name) or path.name in (*BESIDE, LOCK):
                check_file(path)
        except OutputError as error:
            raise CheckpointError(f"{error}; or move it away, this run will write there") from None
        if UNFINISHED.fullmatch(path.name) and not _is_unfinished(path):
            raise CheckpointError(
                f"{path} has the name of an unfinished checkpoint, and was not begun by this program: move it away"
            )


def _is_of_a_run(folder: Path) -> bool:
    """Tell if a folder without a note is of a run: an earlier version's, PaddleMIX's, or one that only was tried."""
    if (folder / NOTE).is_file():
        return False
    return (
        (folder / STATE).is_file()
        or any(folder.glob(f"{PREFIX}*/{STATE}"))
        or all(_is_made_before(path) for path in folder.iterdir())
    )


def _is_made_before(path: Path) -> bool:
    """Tell if something may be there before a run begins: a launcher's, or that of a run killed in its first moment."""
    return path.name in MADE_BEFORE or path.suffix == ".log" or is_leftover(path.name, NOTE)


def is_own(checkpoint: Path) -> bool:
    """Tell if a folder is a checkpoint that this program began."""
    if not OWN.fullmatch(checkpoint.name):
        return False
    return not checkpoint.is_symlink() and checkpoint.is_dir() and _is_begun(checkpoint)


def _is_begun(folder: Path) -> bool:
    try:
        return (folder / RUN).is_file() and FORMAT in read_json(folder / RUN)
    except CheckpointError:
        return False


def remove_unfinished(output_dir: Path) -> None:
    """Remove what a killed run left half written; a whole checkpoint that only lacks its name gets it."""
    for folder in sorted(output_dir.glob(f".{PREFIX}*")):
        if not UNFINISHED.fullmatch(folder.name) or not _is_unfinished(folder):
            continue
        if folder.suffix == ".partial" and _is_begun(folder) and (folder / COMPLETE).is_file():
            _rename(folder, output_dir / folder.name[1:].removesuffix(".partial"))
        else:
            _remove(folder)
    for folder in output_dir.glob(f"{PREFIX}*"):
        if is_own(folder) and not (folder / COMPLETE).is_file():  # one whose removal was cut off
            _remove(folder)


def _is_unfinished(folder: Path) -> bool:
    """Tell if a folder is what a kill can leave of a checkpoint: begun, or with nothing in it but half a run.json."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    remove_leftovers(folder / RUN)
    return _is_begun(folder) or not any(folder.iterdir())


def _remove(folder: Path) -> None:
    """Remove a checkpoint that this program began; cut off anywhere, it is not whole, and still known as such."""
    _empty(folder)
    shutil.rmtree(folder)


def _empty(folder: Path) -> None:
    """Remove all that is in a checkpoint but what says that this program began it."""
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
    meet: Callable[[], None],
    is_shared: bool = False,
) -> Iterator[tuple[Path, Path]]:
    """Yield a folder for the checkpoint of a step, and the name that it takes when all processes have filled it.

    facts: see `run_facts`. is_writer: one process is. meet: waits for all processes. is_shared: there are others, which
    may go on writing when the writer has failed; then what they leave has to be known as this program's.
    """
    final = free_name(output_dir, step)
    folder = output_dir / f".{final.name}.partial"
    if is_writer:
        if _is_replaceable(folder):
            _remove(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RUN, {FORMAT: 1, BEGUN: _now(output_dir), **facts})
    try:
        meet()
        yield folder, final
        meet()
        if is_writer:
            (folder / COMPLETE).touch()
            sync_tree(folder)
            _rename(folder, final)
    except BaseException:
        if is_writer and folder.is_dir():
            _empty(folder) if is_shared else shutil.rmtree(folder, ignore_errors=True)
        raise
    meet()


def free_name(output_dir: Path, step: int) -> Path:
    """Return where a step's checkpoint goes: to its name, or beside something else that has this name."""
    path, number = output_dir / f"{PREFIX}{step}", 1
    while os.path.lexists(path) and not _is_replaceable(path):
        path, number = output_dir / f"{PREFIX}{step}-{number}", number + 1
    return path


def _is_replaceable(path: Path) -> bool:
    return not path.is_symlink() and path.is_dir() and _is_begun(path)


def _rename(folder: Path, final: Path) -> None:
    """Give a whole checkpoint its name; one that has it is there until then, and is gone then."""
    old = final.with_name(f".{final.name}.old")
    if final.is_dir():
        os.replace(final, old)
    os.replace(folder, final)
    sync(final.parent)
    if _is_replaceable(old):
        _remove(old)


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """Return the whole checkpoint that was written last, or None; the highest number may be an older run's.

    Of two that were written in the same tick of the clock it is the one with the higher number.
    """
    return max(_whole(Path(output_dir)), key=_age, default=None)


def _whole(output_dir: Path) -> list[Path]:
    return [mark.parent for mark in output_dir.glob(f"{PREFIX}*/{COMPLETE}") if NAMES.fullmatch(mark.parent.name)]


def _age(checkpoint: Path) -> tuple[int, int, str]:
    begun = read_json(checkpoint / RUN).get(BEGUN) if _is_begun(checkpoint) else None
    begun = begun if isinstance(begun, int) else (checkpoint / COMPLETE).stat().st_mtime_ns
    # Of names that differ in a number only, the longer one has the higher number.
    return begun, len(checkpoint.name), checkpoint.name


def _now(output_dir: Path) -> int:
    """Return the time in nanoseconds, after all whole checkpoints: another machine's clock may be behind."""
    return max([time.time_ns(), *(_age(path)[0] + 1 for path in _whole(output_dir))])


def remove_old(output_dir: Path, limit: int | None, kept: Sequence[str | None]) -> None:
    """Remove the oldest whole checkpoints of this program above a limit, None or 0 for no limit.

    kept: checkpoints that stay, as does the newest one.
    """
    own = sorted((path for path in _whole(output_dir) if is_own(path)), key=_age)
    names = {Path(path).name for path in kept if path is not None}
    removable = [path for path in own[:-1] if path.name not in names]
    for path in removable[: max(len(own) - limit, 0) if limit and limit > 0 else 0]:
        _remove(path)
