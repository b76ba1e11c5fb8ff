"""A file of JSON lines that grows while work goes on, and survives a kill at any moment."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..output import check_file, locked, sync


class LineFile:
    """A file that lines are added to. Used in a `with` block, in which no other process can write to it.

    is_synced: whether a line is on the disk when `add` returns; else it survives a kill, but not a power failure.
    """

    def __init__(self, path: str | Path, *, is_synced: bool = True):
        self.path = Path(path)
        self.is_synced = is_synced

    def __enter__(self) -> LineFile:
        """Open the file, or make it, and drop what a killed process left of its last line.

        Raises OutputError if it cannot be written to or another process is writing it.
        """
        check_file(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
            self._file = opened.enter_context(os.fdopen(handle, "a+b"))
            opened.enter_context(locked(self.path))
            self._repair()
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *exception) -> None:
        self._opened.close()

    def _repair(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        rest = data[data.rfind(b"\n") + 1 :]
        if not rest:
            return
        try:
            json.loads(rest)
        except ValueError:
            self._file.truncate(len(data) - len(rest))
        else:  # only the end of the line is missing
            self._write(b"\n")

    def add(self, value: Any) -> None:
        """Append a line."""
        self._write(json.dumps(value).encode("ascii") + b"\n")

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()
        if self.is_synced:
            sync(self.path)
