"""Prepare the standard streams, so that a closed stream, a full disk or a reader that left causes no traceback."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from .visible import visible

# Each stream's mode, and how it treats characters that its encoding lacks.
STREAMS = {"stdin": ("r", "surrogateescape"), "stdout": ("w", "backslashreplace"), "stderr": ("w", "backslashreplace")}


@contextmanager
def standard_streams() -> Iterator[None]:
    """Make the streams usable for a command, and flush standard output when it ends.

    Raises BrokenPipeError if the reader has gone, OSError if standard output cannot be written. Python then writes no
    more to that stream, not even at exit.
    """
    _open_closed()
    _accept_all_text()
    sys.excepthook = _show_error
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None and not _can_flush(sys.stdout):
            raise OSError(f"standard output cannot be written: {error.strerror or error}") from error
        raise
    finally:
        for stream in (sys.stdout, sys.stderr):
            if not _can_flush(stream):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open_closed() -> None:
    """Replace closed streams by the null device. Otherwise a file would get their number and the printed text."""
    closed = [name for name in STREAMS if vars(sys)[name] is None]
    for name in closed:
        setattr(sys, name, open(os.devnull, STREAMS[name][0], encoding="utf-8"))  # noqa: SIM115  stays open
    if "stdout" in closed:
        print("paddlemix: standard output is closed: its text is lost", file=sys.stderr)


def _accept_all_text() -> None:
    """Accept characters that a stream's encoding lacks: write them as escapes, read them as surrogates."""
    for name, (_, errors) in STREAMS.items():
        stream = vars(sys)[name]
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def _can_flush(stream: io.TextIOBase) -> bool:
    try:
        stream.flush()
    except OSError:
        return False
    return True


def _show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an unexpected error, whose text may come from a file."""
    print(visible("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)
