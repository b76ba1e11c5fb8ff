"""Colors and a spinner, for people at a terminal only: a pipe or a file gets plain text.

NO_COLOR (https://no-color.org) turns the colors off, and a terminal that obeys no codes (TERM=dumb) both.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from .columns import shortened

# Colors of the 256 that all themes share: (0, 135, 0), (175, 95, 0), (118, 118, 118) and (215, 0, 0), each with a
# contrast of 3.9 to 5.4 to black and to white. The 16 named colors are the theme's own, often too bright on white.
GREEN, AMBER, GRAY, RED = "38;5;28", "38;5;130", "38;5;243", "38;5;160"
CODES = {"user": "1", "answer": GREEN, "ok": GREEN, "warning": AMBER, "note": GRAY, "error": RED}
# Of a terminal that may lack the 256.
FEW_CODES = {"user": "1", "answer": "1", "ok": "0", "warning": "1", "note": "0", "error": "31"}
RESET, ERASE_LINE = "\x1b[0m", "\r\x1b[K"
FRAMES, ASCII_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"
SECONDS, DELAY = 0.1, 0.2  # of a frame, before the first one


def is_terminal(*streams: TextIO) -> bool:
    """Return whether all streams are terminals that obey codes."""
    return os.environ.get("TERM") != "dumb" and all(stream.isatty() for stream in streams)


class Style:
    """The colors of a stream, or none."""

    def __init__(self, stream: TextIO):
        self.has_color = is_terminal(stream) and not os.environ.get("NO_COLOR")
        has_many = "256color" in os.environ.get("TERM", "") or bool(os.environ.get("COLORTERM"))
        self._codes = CODES if has_many else FEW_CODES

    def paint(self, text: str, kind: str) -> str:
        """Return a text in the color of its kind, one of CODES."""
        return f"\x1b[{self._codes[kind]}m{text}{RESET}" if self.has_color and text else text

    def prompt(self, text: str, kind: str) -> str:
        """Return a colored prompt for `input` with readline, which has to know what takes no place."""
        return f"\x01\x1b[{self._codes[kind]}m\x02{text}\x01{RESET}\x02" if self.has_color else text


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Show on standard error that something goes on, with the seconds that it takes, while the block runs."""
    stream = sys.stderr
    if not is_terminal(stream, sys.stdout):
        yield
        return
    has_ended = threading.Event()
    thread = threading.Thread(target=_spin, args=(text, stream, has_ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()


def _spin(text: str, stream: TextIO, has_ended: threading.Event) -> None:
    """Draw frames until the end, then erase. The cursor waits at the start, so that other text covers the frame."""
    is_unicode = (stream.encoding or "").lower().replace("-", "") == "utf8"
    start = time.monotonic()
    if has_ended.wait(DELAY):
        return
    text = shortened(text, max(shutil.get_terminal_size().columns - 12, 10))
    for frame in itertools.cycle(FRAMES if is_unicode else ASCII_FRAMES):
        seconds = int(time.monotonic() - start)
        stream.write(f"{ERASE_LINE}{frame} {text}{f' {seconds} s' if seconds else ''}\r")
        stream.flush()
        if has_ended.wait(SECONDS):
            break
    stream.write(ERASE_LINE)
    stream.flush()
