"""Raw files, as they are or inside a zip archive: `ai2d-all.zip/ai2d/questions` is a folder in an archive."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ..terminal.near_paths import did_you_mean

RawPath = Path | zipfile.Path
MAX_WHOLE = 1 << 28  # bytes of a file that is read at once: an archive of a few MB can hold any number of GB


def raw_path(name: str) -> RawPath:
    """Return a path; a part that is a zip archive is entered. Raises ValueError if it does not exist."""
    path = user_path(name)
    archive = next((one for one in (path, *path.parents) if one.suffix.lower() == ".zip" and one.is_file()), None)
    if archive is None:
        if not path.exists():
            expected = "expected a file or folder of the data set, or one in a .zip"
            raise ValueError(f"{path} does not exist: {expected}{did_you_mean(path)}")
        return path
    inner = path.relative_to(archive).as_posix()
    try:
        found = zipfile.Path(archive, "" if inner == "." else inner)
        if inner == "." or found.exists():
            return found
        found = zipfile.Path(archive, f"{inner}/")
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{archive} is not a complete zip archive: {error}; download it again") from None
    if not found.exists():
        top = sorted({one.split("/")[0] for one in found.root.namelist()})
        raise ValueError(f"{archive} has no {inner}: it has {', '.join(top[:10])}")
    return found


def user_path(name: str) -> Path:
    """Return the path that a user names, with `~` expanded where that is possible. Raises ValueError for no name."""
    if not name:
        raise ValueError("the name of a file or folder is empty: expected a path (. is the current folder)")
    return Path(os.path.expanduser(name))


def raw_folder(name: str) -> RawPath:
    """Return the path of a folder. Raises ValueError for anything else."""
    path = raw_path(name)
    if not path.is_dir():
        raise ValueError(f"{path} is a file, expected a folder")
    return path


def raw_file(name: str) -> RawPath:
    """Return the path of a file. Raises ValueError for anything else."""
    path = raw_path(name)
    if not path.is_file():
        raise ValueError(f"{path} is a folder, expected a file")
    return path


def files_in(folder: RawPath, suffix: str) -> list[RawPath]:
    """Return the files with a suffix in a folder, by name. Hidden ones, which systems leave behind, are not listed."""
    found = (one for one in folder.iterdir() if one.name.endswith(suffix) and not one.name.startswith("."))
    return sorted((one for one in found if one.is_file()), key=lambda one: one.name)


def present(folder: RawPath, names: list[str]) -> tuple[list[str], list[str]]:
    """Return which of several files are in a folder, and which are missing. Raises ValueError if all are."""
    there = [name for name in names if inside(folder, name).is_file()]
    if not there:
        raise ValueError(f"{folder} has none of the files of the data set: expected {', '.join(names)}")
    return there, [name for name in names if name not in there]


def inside(folder: RawPath, name: str) -> RawPath:
    """Return the path of a file in a folder. name: relative, with "/" between its parts."""
    for part in name.split("/"):
        folder = folder / part
    return folder


def output_folder(folder: RawPath, name: str | None) -> Path:
    """Return the folder that a user names, or that of the raw files. Raises ValueError if that is in an archive."""
    if name:
        return user_path(name)
    if isinstance(folder, zipfile.Path):
        raise ValueError(f"{folder} is in an archive, where nothing can be written: name --output_dir")
    return folder


@contextmanager
def opened(path: RawPath) -> Iterator[BinaryIO]:
    """Open a file for reading bytes. Raises ValueError if it cannot be read, or its archive turns out to be damaged."""
    try:
        file = path.open("rb")
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:  # RuntimeError: an encrypted member
        raise ValueError(f"{path} cannot be read: {error}") from None
    with file:
        try:
            yield file
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{path} is in a damaged archive: {error}; download it again") from None


def read_whole(path: RawPath) -> bytes:
    """Return the content of a file. Raises ValueError if it cannot be read, or is too long to be one of a data set."""
    with opened(path) as file:
        content = file.read(MAX_WHOLE + 1)
    if len(content) > MAX_WHOLE:
        raise ValueError(f"{path} has more than {MAX_WHOLE:,} bytes: expected a file of the data set")
    return content


def size_of(path: RawPath) -> int:
    """Return the size of a file, in bytes, at least 1."""
    size = path.root.getinfo(path.at).file_size if isinstance(path, zipfile.Path) else path.stat().st_size
    return max(1, size)


def stamp_of(path: RawPath) -> list[Any]:
    """Return what changes when the content of a file does: name, size, and its time or checksum."""
    if isinstance(path, zipfile.Path):
        found = path.root.getinfo(path.at)
        return [path.name, found.file_size, found.CRC]
    found = path.stat()
    return [path.name, found.st_size, found.st_mtime_ns]
