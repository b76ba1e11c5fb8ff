"""Hide what libraries print, and keep all of it in a file.

Our own text goes to `sys.stdout` and `sys.stderr` as before. What goes to the file: file descriptors 1 and 2 (C++ code
and other programs), Python's warnings, and what libraries print and log from their import on. Their loggers' warnings
and errors are shown too, and so is the Python stack of a crash.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from typing import IO, TextIO

from .visible import visible

OURS = "paddlemix"  # our logger
# Warnings of libraries' loggers that tell a user nothing: what they announce is done, or reported elsewhere.
KNOWN = (
    "set amp_master_grad to false since amp is disabled",
    "Model is None",
    "not suppor for merge_tensor_parallel",
)


class HiddenText:
    """The hidden text. path: of its file, None as long as that is a temporary one."""

    def __init__(self, title: str):
        self.path: Path | None = None
        self._file: IO[bytes] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  stays open
        # Handlers of libraries keep it, so that it is never closed.
        number = os.dup(self._file.fileno())
        self.stream = open(number, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
        print(f"==== {time.strftime('%Y-%m-%d %H:%M:%S')} {title}", file=self.stream)

    def fileno(self) -> int:
        return self.stream.fileno()

    def move_to(self, path: Path) -> None:
        """Append the text so far to a file, and from now on write there. Raises OSError, for a link too."""
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        _flush()
        with open(number, "wb", buffering=0) as file:
            self._file.seek(0)
            shutil.copyfileobj(self._file, file)
            for place in (1, 2, self.stream.fileno(), self._file.fileno()):
                os.dup2(number, place, inheritable=place < 3)
        self.path = path

    def text(self) -> str:
        """Return the text while it is in a temporary file, "" after `move_to`."""
        if self.path is not None:
            return ""
        self._file.seek(0)
        return self._file.read().decode("utf-8", "backslashreplace")

    @contextmanager
    def importing(self) -> Iterator[None]:
        """Hide what libraries print while they are imported, and what their handlers print from then on."""
        shown = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = self.stream
        try:
            yield
        finally:
            sys.stdout, sys.stderr = shown
        for logger in (logging.getLogger(), *_own_loggers()):
            for handler in logger.handlers:
                if "no_color" in vars(handler.formatter or self):  # colorlog's, which colors files too
                    handler.formatter.no_color = True
            logger.addHandler(ShownWarnings())
        faulthandler.enable(file=sys.stderr, all_threads=False)


class ShownWarnings(logging.Handler):
    """Prints warnings and errors on standard error, above a progress bar. is_ours: our own, else those of others."""

    def __init__(self, is_ours: bool = False):
        super().__init__(logging.WARNING)
        self.is_ours = is_ours

    def emit(self, record: logging.LogRecord) -> None:
        text, room = record.getMessage(), record.name.lower().split(".")[0]
        if (room == OURS) == self.is_ours and not any(known in text for known in KNOWN):
            print_above(visible(f"{record.module if room == 'root' else room}: {text}"))


@contextmanager
def library_at_work() -> Iterator[None]:
    """Pass what Python code prints to the file descriptors, which `hidden_libraries` hides: a library is at work."""
    options = {"mode": "w", "encoding": "utf-8", "errors": "backslashreplace", "closefd": False}
    with open(1, **options) as out, open(2, **options) as error, redirect_stdout(out), redirect_stderr(error):
        yield


def print_above(text: str, file: TextIO | None = None) -> None:
    """Print a line above the progress bars of the terminal. file: standard error by default."""
    from tqdm import tqdm  # here, because not every command needs it

    file = sys.stderr if file is None else file
    tqdm.write(text, file=file)
    file.flush()


@contextmanager
def hidden_libraries(is_first: bool, title: str) -> Iterator[HiddenText | None]:
    """Hide what libraries print. Yields None, and hides nothing, where the streams are not those of the process.

    is_first: False for the other processes of a run, of which only standard error is shown. title: the first line.
    """
    streams = sys.stdout, sys.stderr
    if not all(_is_real(stream, number) for number, stream in enumerate(streams, start=1)):
        yield None
        return
    _flush()
    hidden, numbers, show_warning = HiddenText(title), [os.dup(1), os.dup(2)], warnings.showwarning
    notices = ShownWarnings(is_ours=True)
    shown = [_same(stream, os.dup(number)) for stream, number in zip(streams, numbers, strict=True)]
    try:
        os.dup2(hidden.fileno(), 1)
        os.dup2(hidden.fileno(), 2)
        sys.stdout, sys.stderr = shown if is_first else (hidden.stream, shown[1])
        logging.getLogger(OURS).addHandler(notices)
        warnings.showwarning = lambda *parts, **more: hidden.stream.write(warnings.formatwarning(*parts[:4]))
        yield hidden
    finally:
        _restore(streams, numbers)
        warnings.showwarning = show_warning
        logging.getLogger(OURS).removeHandler(notices)
        for stream in shown:
            with suppress(OSError):  # a reader that has left, or a full disk: writing raised it before
                stream.close()


@contextmanager
def quiet_libraries(title: str, *modules: str) -> Iterator[None]:
    """Hide what libraries print in a command that keeps no log; show it after an error that is no mistake of a user.

    title: of the hidden text. modules: full names of what the command imports, loaded here so that it is silent.
    """
    with hidden_libraries(True, title) as hidden:
        try:
            with nullcontext() if hidden is None else hidden.importing():
                for module in modules:
                    import_module(module)
            yield
        except (ValueError, OSError, ImportError):
            raise
        except Exception:
            if hidden is not None:
                print(visible(hidden.text()), end="", file=sys.stderr)
            raise


def _restore(streams: tuple[TextIO, TextIO], numbers: list[int]) -> None:
    """Show everything again, as before `hidden_libraries`."""
    if faulthandler.is_enabled():
        faulthandler.enable(file=2)
    _flush()
    for place, number in enumerate(numbers, start=1):
        os.dup2(number, place)
        os.close(number)
    sys.stdout, sys.stderr = streams
    for logger in (logging.getLogger(), *_own_loggers()):
        for handler in [one for one in logger.handlers if isinstance(one, ShownWarnings)]:
            logger.removeHandler(handler)


def _own_loggers() -> list[logging.Logger]:
    """Return the loggers that do not pass their records to the root."""
    found = logging.Logger.manager.loggerDict.values()
    return [one for one in found if isinstance(one, logging.Logger) and one.handlers and not one.propagate]


def _is_real(stream: TextIO, number: int) -> bool:
    try:
        return stream.fileno() == number
    except (OSError, ValueError, AttributeError):  # captured, closed or replaced
        return False


def _same(stream: TextIO, number: int) -> TextIO:
    """Return a stream like another one, on another descriptor."""
    return open(number, "w", encoding=stream.encoding, errors=stream.errors, buffering=1)


def _flush() -> None:
    """Write what Python and C have in their buffers."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    ctypes.CDLL(None).fflush(None)
