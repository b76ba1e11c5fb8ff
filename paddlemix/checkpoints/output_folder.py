"""The folders that commands write: checked first, complete or absent, and never over foreign files.

A new folder grows under a hidden name beside its place and is renamed when it is complete. If the folder exists
already, its successor grows inside it, and its files are then moved one by one: the configs by which a model is
recognized are removed first and come back last, so that a half replaced folder is not a model, and the next start
finishes the move.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..hub.model_files import PARTS
from ..output import OutputError, check_file, locked, sync, sync_tree, write_json
from ..tensor_files.stored import CheckpointError, preview, read_json

NOTE = ".paddlemix.json"  # in each output: the command that wrote it, and its files
STAGING = ".paddlemix-unfinished"
HEADS = ("config.json", "adapter_config.json", "lora_config.json")  # without them a folder is not recognized as a model
# Files that decide how a model folder is read. When a folder is overwritten, the old ones are removed.
MODEL_FILES = re.compile(
    r"(lora_config|adapter_config|config|generation_config|(pre)?processor_config|tokenizer(_config)?"
    r"|special_tokens_map|added_tokens|chat_template|vocab)\.json|chat_template\.jinja|merges\.txt"
    r"|tokenizer\.model|sentencepiece\.bpe\.model|mm_projector\.(bin|safetensors|pdparams)|non_lora_trainables\.bin"
    r"|(adapter_model|lora_model_state|peft_model|model|model_state|pytorch_model)(-\d{5}-of-\d{5})?"
    r"\.(safetensors|bin|pdparams)(\.index\.json)?"
)
MOST_NAMES = 5


@dataclass(frozen=True)
class OutputFolder:
    """A folder that a user named for a command's output.

    is_overwriting: whether it may have other files than an earlier output of the same command. option: the flag for
    that. is_known: recognizes an earlier output without a note. layout: what the command writes, where it can write
    several; an earlier output in another layout is not replaced.
    """

    folder: Path
    command: str
    is_overwriting: bool = False
    option: str = "--overwrite"
    is_known: Callable[[Path], bool] = lambda folder: False
    layout: str = ""

    def checked(self, sources: Sequence[Path]) -> OutputFolder:
        """Return the same with the folder's real path.

        sources: folders that are read. Raises CheckpointError if the folder is a file, a source, a parent of a source,
        or has files that may not be overwritten.
        """
        folder = _resolved(self.folder)
        real = [_resolved(source) for source in sources]
        if folder in real:
            raise CheckpointError(f"the destination {folder} is also a source: name another folder")
        if folder.parent in real and folder.name in PARTS:
            raise CheckpointError(f"the destination {folder} would become a part of the source: name another folder")
        if folder.exists() and not folder.is_dir():
            raise CheckpointError(f"the destination {folder} is a file: name a folder")
        if folder.is_dir():
            self._check_contents(folder)
        inner = next((source for source in real if folder in source.parents), None)
        if inner is not None:
            raise CheckpointError(f"the source {inner} is in the destination {folder}: name another folder")
        return dataclasses.replace(self, folder=folder)

    def _check_contents(self, folder: Path) -> None:
        names = sorted(path.name for path in folder.iterdir() if path.name != STAGING)
        notes = [note for place in (folder, folder / STAGING) if (note := _note_of(place))]  # the latter: interrupted
        layouts = [note.get("layout", "") for note in notes if note.get("command") == self.command]
        if not names or self.is_overwriting or self.layout in layouts or self.is_known(folder):
            return
        if layouts:
            raise CheckpointError(
                f"the destination {folder} is an earlier output of {self.command} in layout {layouts[0] or 'unknown'}, "
                f"and this one is {self.layout}: name a new folder, or set {self.option} to replace it"
            )
        raise CheckpointError(
            f"the destination {folder} is not empty and not an earlier output of {self.command}, it holds "
            f"{preview(names, MOST_NAMES)}: name a new folder, or empty this one, or set {self.option}"
        )

    @contextmanager
    def filled(self) -> Iterator[Path]:
        """Yield a folder to fill, which gets its name on success and is removed on failure. Call `checked` first."""
        is_taken = self.folder.is_dir() and any(self.folder.iterdir())
        try:
            values = self._values()
            with exchanged(self.folder, self.command, values=values) if is_taken else self._renamed() as folder:
                yield folder
        except OutputError as error:
            raise CheckpointError(str(error)) from None
        except OSError as error:
            is_whole = (self.folder / STAGING / NOTE).is_file()
            left = "the next start goes on with its files" if is_whole else "nothing was left there"
            raise CheckpointError(f"{self.folder} could not be written: {error}; {left}") from error

    @contextmanager
    def _renamed(self) -> Iterator[Path]:
        folder = self.folder.parent / f".{self.folder.name}{STAGING}"
        with _growing(folder):
            yield folder
            write_note(folder, self.command, self._values())
            sync_tree(folder)
            folder.replace(self.folder)

    def _values(self) -> dict[str, Any]:
        """Return what the folder's note says beside the command and the files."""
        return {"layout": self.layout} if self.layout else {}


def _resolved(path: Path) -> Path:
    try:
        return Path(path).expanduser().resolve()
    except (RuntimeError, OSError, ValueError) as error:  # ~nobody, a loop of links, a NUL
        raise CheckpointError(f"{str(path)!r} is not a path: {error}") from None


def _note_of(folder: Path) -> dict[str, Any]:
    return read_json(folder / NOTE) if (folder / NOTE).is_file() else {}


def write_note(folder: Path, command: str, values: dict[str, Any] | None = None) -> None:
    """Record the command that wrote a folder, and its files. values: further keys of the note."""
    write_json(folder / NOTE, {"command": command, "files": _files(folder), **(values or {})})


@contextmanager
def exchanged(
    destination: Path,
    command: str | None,
    *,
    is_replaced: Callable[[str], Any] = MODEL_FILES.fullmatch,
    values: dict[str, Any] | None = None,
) -> Iterator[Path]:
    """Yield a folder to fill, whose files then replace the files in `destination`.

    command: for the folder's note, None for no note. values: see `write_note`. is_replaced: whether a file of the
    former output is removed if the new one has no file of that name.
    """
    destination.mkdir(parents=True, exist_ok=True)
    finish_exchange(destination)
    folder = destination / STAGING
    with _growing(folder):
        yield folder
        files = _files(folder)
        for name in files:
            _check_part(destination, name)
        former = read_json(destination / NOTE).get("files") if (destination / NOTE).is_file() else None
        former = former if isinstance(former, list) else []
        gone = {path.name for path in destination.iterdir() if path.is_file() and is_replaced(path.name)}
        gone |= {name for name in former if command is not None and _is_inside(name) and not _link(destination, name)}
        note = {"command": command, "files": files, **(values or {})}
        sync_tree(folder)
        write_json(folder / NOTE, {**note, "replaced": sorted(gone - set(files))})
        sync_tree(folder)
        _exchange(folder, destination)


def _check_part(destination: Path, name: str) -> None:
    """Raise OutputError if a file of the new output would replace anything but a file, or be in another folder."""
    if link := _link(destination, name):
        raise OutputError(f"{link} is a link and is not followed: remove it, or name another folder")
    check_file(destination / name)


def _link(destination: Path, name: str) -> Path | None:
    """Return the link by which a file of a note would be in another folder."""
    parents = (destination / parent for parent in PurePosixPath(name).parents if parent.name)
    return next((parent for parent in parents if parent.is_symlink()), None)


def finish_exchange(destination: Path) -> None:
    """Finish an interrupted exchange: move the files of a complete successor, or remove an incomplete one.

    Raises CheckpointError for a note that this module does not write.
    """
    folder = destination / STAGING
    if not folder.is_dir() or folder.is_symlink():
        return
    with locked(folder):
        if (folder / NOTE).is_file():
            _exchange(folder, destination)
        else:
            shutil.rmtree(folder)


def _exchange(folder: Path, destination: Path) -> None:
    """Move the files of a complete successor to their places. May be interrupted anywhere and repeated."""
    note = read_json(folder / NOTE)
    files, gone = note.get("files"), note.pop("replaced", None)
    if not all(isinstance(names, list) and all(map(_is_inside, names)) for names in (files, gone)):
        raise CheckpointError(f"{folder / NOTE} is not a note of an unfinished output: remove {folder}")
    if link := next(filter(None, (_link(destination, name) for name in [*files, *gone])), None):
        raise CheckpointError(
            f"{folder / NOTE} names files below {link}, a link, which is not followed: remove {folder}"
        )
    heads = sorted((name for name in files if _is_head(name)), key=lambda name: HEADS.index(Path(name).name))
    for name in filter(_is_head, [*files, *gone]):
        if (folder / name).is_file() or name in gone:
            (destination / name).unlink(missing_ok=True)
    for name in [*(name for name in files if not _is_head(name)), *gone, *reversed(heads)]:
        if name in gone:
            (destination / name).unlink(missing_ok=True)
        elif (folder / name).is_file():
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder / name, destination / name)
    if note["command"] is not None:
        write_json(destination / NOTE, note)
    sync(destination)
    shutil.rmtree(folder)


def _is_head(name: str) -> bool:
    return Path(name).name in HEADS


def _is_inside(name: Any) -> bool:
    """Return whether a name in a note is inside its folder."""
    return isinstance(name, str) and name != "" and not {"..", "/"} & set(PurePosixPath(name).parts)


def _files(folder: Path) -> list[str]:
    """Return the files of a folder and its subfolders, without its note."""
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [path for path in paths if path != NOTE]


@contextmanager
def _growing(folder: Path) -> Iterator[None]:
    """Make an empty folder that no other process writes. Remove it at the end, unless its files are to be moved."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink():  # not ours: the folder that it points to must not be emptied
        folder.unlink()
    folder.mkdir(exist_ok=True)
    with locked(folder):
        try:
            _empty(folder)
            yield
        finally:
            if folder.name != STAGING or not (folder / NOTE).is_file():
                shutil.rmtree(folder, ignore_errors=True)


def _empty(folder: Path) -> None:
    for child in folder.iterdir():
        shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
