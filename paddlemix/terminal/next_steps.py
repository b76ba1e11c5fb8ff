"""What a command shows at its end: where its result is, and the commands that come next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from .columns import padded, shortened_within, width_of, wrapped
from .folding import BACKSLASH, COMMAND_PARTS, folded
from .visible import visible_line

WIDTH = 12  # of the names in front
MIN_ROOM = 20  # places beside a name, however narrow a terminal is
Row = tuple[str, str]  # a name, and what stands beside it


def end_of_command(rows: Iterable[Row], commands: Iterable[Row]) -> str:
    """Return the lines of the end: what there is now, and below "next" the commands, as they can be pasted."""
    lines = [line for name, text in rows for line in hanging(padded(name, WIDTH), visible_line(text))]
    return "\n".join([*lines, "next", *(f"  {padded(name, WIDTH - 2)}{_command(text)}" for name, text in commands)])


def hanging(first: str, text: str) -> list[str]:
    """Return the lines of a text beside a name, all in one without a terminal: a file should have it as it is.

    first: the name, padded. A word that is longer than a line, as a path, is cut in its middle.
    """
    room = shutil.get_terminal_size().columns - width_of(first)
    if not sys.stdout.isatty() or width_of(text) <= room:
        return [first + text]
    room = max(room, MIN_ROOM)
    lines = wrapped(" ".join(shortened_within(word, room) for word in text.split()), room)
    return [(" " * width_of(first) if number else first) + line for number, line in enumerate(lines)]


def _command(text: str) -> str:
    """Return a command in lines that fit a terminal; elsewhere it is one line."""
    if not sys.stdout.isatty():
        return visible_line(text)
    width = shutil.get_terminal_size().columns - WIDTH
    return f"\n{' ' * WIDTH}".join(folded(visible_line(text), width, COMMAND_PARTS, "    ", BACKSLASH))


def this_command() -> str:
    """Return how this shell calls `paddlemix`."""
    beside = Path(sys.executable).with_name("paddlemix")
    if shutil.which("paddlemix"):
        return "paddlemix"
    return shlex.quote(near(str(beside))) if beside.is_file() else f"{shlex.quote(sys.executable)} -m paddlemix"


def near(path: str) -> str:
    """Return a path relative to the current directory if it is in there."""
    found = os.path.relpath(path)
    return path if found.startswith("..") else found
