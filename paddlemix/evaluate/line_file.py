"""A file of JSON lines that grows while work goes on, and survives a kill at any moment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ..output import appending, sync


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Give an OSError of writing the name of the file, which it lacks."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def complete_lines(path: Path) -> list[bytes]:
    """Return the lines of a file, without a last one that a kill has cut off; none if there is no file."""
    return path.read_bytes().split(b"\n")[:-1] if path.is_file() else []


class LineFile:
    """A file that lines are added to. Used in a `with` block, in which no other process can write to it.

    is_synced: whether a line is on the disk when `add` returns; else it survives a kill, but not a power failure.
    """

    def __init__(self, path: str | Path, *, is_synced: bool = True):
        self.path = Path(path)
        self.is_synced = is_synced

    def __enter__(self) -> LineFile:
        """Open the file, see `appending`."""
        with ExitStack() as opened:
            self._file = opened.enter_context(appending(self.path))
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *exception) -> None:
        with _naming(self.path):
            self._opened.close()  # which writes again what a full disk did not take

    def add(self, value: Any) -> None:
        """Append a line. Raises OSError with the file's name if it cannot be written, as on a full disk."""
        with _naming(self.path):
            self._file.write(json.dumps(value).encode("ascii") + b"\n")
            self._file.flush()
        if self.is_synced:
            sync(self.path)
