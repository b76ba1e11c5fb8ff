"""The one way in which files are written: under a temporary name first, renamed when they are whole.

What stands at the last place of a path is replaced only if it is a regular file: a link is not followed, and a device,
a pipe or a folder stays what it is.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

TEMPORARY = r"\.{name}\.\w{{8}}\.tmp"  # what tempfile makes of the prefix and suffix below

MAX_NAME = 300  # characters of a path in a message
NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems that cannot bring a folder to the disk
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # of file systems that have none


class OutputError(ValueError):
    """A place that nothing is written to; the text says what is there and what to do."""


class replacing:
    """Open a temporary file beside `path` for writing bytes; rename it to `path` on success, remove it on failure.

    What a killed process left of an earlier attempt is removed first. Raises OutputError, with nothing written, where
    `path` is anything but a regular file or a new name.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __enter__(self) -> BinaryIO:
        check_file(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.path)
        handle, self.temporary = tempfile.mkstemp(prefix=f".{self.path.name}.", suffix=".tmp", dir=self.path.parent)
        os.fchmod(handle, 0o666 & ~_umask())
        _lock(fcntl.flock, handle, "")  # until it is closed: another process leaves it alone
        self.file = os.fdopen(handle, "wb")
        return self.file

    def __exit__(self, kind, error, traceback) -> bool:
        try:
            if kind is None:
                self.file.flush()
                check_file(self.path)  # it may have become something else meanwhile
                os.replace(self.temporary, self.path)
        finally:
            try:
                self.file.close()  # writes what is buffered, so it can fail too
            finally:
                Path(self.temporary).unlink(missing_ok=True)
        return False


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON in UTF-8; see `replacing`."""
    with replacing(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def check_file(path: str | Path) -> None:
    """Raise OutputError where a path cannot be written to as a file: a link, a folder, a device, a NUL in its name."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:  # a name that is too long, or holds a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise OutputError(f"{_short(path)} cannot be written: {reason}") from None
    if stat.S_ISLNK(mode):
        raise OutputError(f"{path} is a link to {os.readlink(path)} and is not followed: name the file itself")
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device" if _is_device(mode) else "a pipe or a socket"
        raise OutputError(f"{path} is {kind}, expected a file or a new name: name another place")


def named_file(name: str, sources: Iterable[str | Path] = ()) -> Path:
    """Return the path of a file that a user wants written, `~` expanded.

    sources: files and folders that are read. Raises OutputError for a place that cannot be written to, or is read.
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
            raise OutputError(f"{path} is read, or lies in a folder that is ({source}): name another place")
    return path


def remove_leftovers(path: Path) -> None:
    """Remove temporary files that processes which are gone left beside a path."""
    with os.scandir(path.parent) as entries:
        names = [one for one in entries if is_leftover(one.name, path.name)]
        left = [Path(one.path) for one in names if one.is_file(follow_symlinks=False)]
    for other in left:
        if not _is_locked(other):
            other.unlink(missing_ok=True)


def is_leftover(name: str, of: str) -> bool:
    """Tell if a name is a temporary one of a file that `replacing` writes."""
    return re.fullmatch(TEMPORARY.format(name=re.escape(of)), name, re.ASCII) is not None


def _short(path: str | Path) -> str:
    name = str(path)
    return repr(name) if len(name) <= MAX_NAME else f"{name[:60]!r}... ({len(name)} characters)"


def _is_locked(path: Path) -> bool:
    """Tell if a process is writing a file."""
    try:
        with locked(path):
            return False
    except (OSError, OutputError):  # it is locked, gone, or somebody else's
        return True


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold the lock of a folder, which goes with the process. Raises OutputError when another process holds it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        _lock(fcntl.flock, handle, f"another process is writing {path}: wait for it")
        yield
    finally:
        os.close(handle)


@contextmanager
def lock_file(path: Path, text: str) -> Iterator[None]:
    """Hold a lock that processes which this one forks do not have. text: of the OutputError when it is held."""
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
    """Bring a folder and all that is in it to the disk, so that its name never stands for less than the whole."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(handle)


def _is_device(mode: int) -> bool:
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
