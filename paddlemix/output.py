"""The one way to write files: under a temporary name, renamed when they are complete.

A path is replaced only if it is a regular file. A link is not followed, and a device, a pipe or a folder stays.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

TEMPORARY = r"\.{name}\.\w{{8}}\.tmp"  # the name that tempfile makes of the prefix and suffix below

MAX_NAME = 300  # characters of a path in a message
NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems that cannot sync a folder
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # of file systems without locks


class OutputError(ValueError):
    """A path that cannot be written to. The text says what was found there and what to do."""


class replacing:
    """Open a temporary file beside `path` for writing bytes. Rename it to `path` on success, remove it on failure.

    Temporary files of killed processes are removed first. Raises OutputError before anything is written if `path` is
    neither a regular file nor a new name. The OSError of a full disk, which names no file, gets the name of this one.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __enter__(self) -> BinaryIO:
        check_file(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.path)
        handle, self.temporary = tempfile.mkstemp(prefix=f".{self.path.name}.", suffix=".tmp", dir=self.path.parent)
        os.fchmod(handle, 0o666 & ~_umask())
        _lock(fcntl.flock, handle, "")  # until it is closed, so that other processes do not remove it
        self.file = os.fdopen(handle, "wb")
        return self.file

    def __exit__(self, kind, error, traceback) -> bool:
        if isinstance(error, OSError):
            self._name(error)
        try:
            self._close(is_complete=kind is None)
        except OSError as failure:
            self._name(failure)
            raise
        return False

    def _name(self, error: OSError) -> None:
        if error.errno in NO_SPACE and error.filename is None:
            error.filename = str(self.path)

    def _close(self, is_complete: bool) -> None:
        try:
            if is_complete:
                self.file.flush()
                check_file(self.path)  # it may have become something else meanwhile
                os.replace(self.temporary, self.path)
        finally:
            try:
                self.file.close()  # flushes, so it can fail too
            finally:
                Path(self.temporary).unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON in UTF-8; see `replacing`."""
    with replacing(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def check_file(path: str | Path) -> None:
    """Raise OutputError if a path cannot be written to as a file: a link, a folder, a device, a NUL in its name."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:  # a name that is too long or contains a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise OutputError(f"{_short(path)} cannot be written: {reason}") from None
    if stat.S_ISLNK(mode):
        raise OutputError(f"{path} is a link to {os.readlink(path)} and is not followed: name the file itself")
    if not stat.S_ISREG(mode):
        is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        kind = "a folder" if stat.S_ISDIR(mode) else "a device" if is_device else "a pipe or a socket"
        raise OutputError(f"{path} is {kind}, expected a file or a new name: name another path")


def named_file(name: str, sources: Iterable[str | Path] = ()) -> Path:
    """Return the path of an output file that a user names, with `~` expanded.

    sources: files and folders that are read. Raises OutputError for a path that cannot be written to or is read.
    """
    try:
        path = Path(name).expanduser()
    except RuntimeError:
        raise OutputError(f"{_short(name)} cannot be written: there is no such user") from None
    if not path.name or name.endswith(("/", "/.")):
        raise OutputError(f"{_short(name)} is a folder, expected the name of a file")
    check_file(path)
    real = path.resolve()
    for source in sources:
        if Path(os.path.expanduser(source)).resolve() in (real, *real.parents):
            raise OutputError(f"{path} is an input, or is in an input folder ({source}): name another path")
    return path


def remove_leftovers(path: Path) -> None:
    """Remove temporary files beside a path whose processes have ended."""
    with os.scandir(path.parent) as entries:
        names = [one for one in entries if is_leftover(one.name, path.name)]
        left = [Path(one.path) for one in names if one.is_file(follow_symlinks=False)]
    for other in left:
        if not _is_locked(other):
            other.unlink(missing_ok=True)


def is_leftover(name: str, of: str) -> bool:
    """Return whether `replacing` makes a temporary file of this name for the file `of`."""
    return re.fullmatch(TEMPORARY.format(name=re.escape(of)), name, re.ASCII) is not None


def _short(path: str | Path) -> str:
    name = str(path)
    return repr(name) if len(name) <= MAX_NAME else f"{name[:60]!r}... ({len(name)} characters)"


def _is_locked(path: Path) -> bool:
    """Return whether a process is writing a file."""
    try:
        with locked(path):
            return False
    except (OSError, OutputError):  # locked, gone, or another user's
        return True


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold the lock of a path, which ends with the process. Raises OutputError if another process holds it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        _lock(fcntl.flock, handle, f"another process is writing {path}: wait for it")
        yield
    finally:
        os.close(handle)


@contextmanager
def appending(path: Path, check: Callable[[bytes], object] = len) -> Iterator[BinaryIO]:
    """Open a file, a new one if there is none, to append lines to; a last line that a kill has cut off is removed.

    The file is locked while it is open. check: gets the content before anything is removed, and raises for a file that
    must stay as it is. Raises OutputError if another process has it open here, or it is no regular file.
    """
    check_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b") as file:
        _lock(fcntl.flock, file.fileno(), f"another process is writing {path}: wait for it, or choose another output")
        content = file.read()
        check(content)
        file.truncate(content.rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)
        yield file


@contextmanager
def lock_file(path: Path, text: str) -> Iterator[None]:
    """Hold a lock that forked processes do not inherit. text: of the OutputError if another process holds it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        _lock(fcntl.lockf, handle, text)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _lock(lock, handle: int, text: str) -> None:
    try:
        lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX allows either
        raise OutputError(text) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def sync_tree(folder: Path) -> None:
    """Write a folder and its content to the disk, so that after a crash it is never incomplete under its name."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
