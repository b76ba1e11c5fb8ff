"""Lines that are typed into the chat: editing, history and the Tab key."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..terminal.columns import padded, width_of
from ..terminal.style import Style
from .chat_params import FIELDS
from .chat_paths import completed

PROMPT = "USER: "
MAX_LINES = 1000  # of the history
TAKE_PATHS = ("/image ", "/save ")


def read_line(style: Style) -> str:
    """Read a line of standard input. Raises EOFError at its end."""
    is_edited = sys.stdin.isatty() and "readline" in sys.modules
    return input(style.prompt(PROMPT, "user") if is_edited else PROMPT)


def proposals(line: str, commands: Sequence[str]) -> list[str]:
    """Return how a line up to the cursor could go on: a command, a setting of /params or a path."""
    word, space, rest = line.partition(" ")
    if word.lower() == "/params" and space:
        before, _, last = rest.rpartition(" ")
        names = [f"{name}=" for name in FIELDS if name.startswith(last)]
        return [f"{word} {before}{' ' if before else ''}{name}" for name in names]
    for command in TAKE_PATHS:
        if line.lower().startswith(command):
            return [command + path for path in completed(line[len(command) :])]
    found = [f"{command} " for command in commands if command.startswith(line.lower())] if line.startswith("/") else []
    if found:  # rather than the folders at the root of the machine
        return found
    return completed(line) if line and (not space or line.startswith(("/", "~", "."))) else []


@contextlib.contextmanager
def edited_lines(commands: Sequence[str]) -> Iterator[None]:
    """Edit lines with readline while the block runs, if Python has it; the history lasts from chat to chat."""
    if importlib.util.find_spec("readline") is None:
        yield
        return
    import readline

    found: list[str] = []

    def complete(text: str, state: int) -> str | None:
        if state == 0:
            found[:] = proposals(text, commands)
        return found[state] if state < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims("")
    readline.set_completion_display_matches_hook(lambda text, matches, _: _show(text, matches))
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")
    history = history_file()
    with contextlib.suppress(OSError):  # there is none yet, or it cannot be read: the chat needs none
        readline.read_history_file(history)
    readline.set_history_length(MAX_LINES)
    try:
        yield
    finally:
        readline.set_completer(None)
        with contextlib.suppress(OSError):  # a read-only home folder: the next chat has no history then
            history.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(history, os.O_WRONLY | os.O_CREAT, 0o600))  # lines are for their writer's eyes
            readline.write_history_file(history)


def history_file() -> Path:
    """Return the file of the lines that were typed in chats before."""
    folder = os.environ.get("PADDLEMIX_CACHE") or os.path.join("~", ".cache", "paddlemix")
    return Path(os.path.expanduser(folder)) / "chat_history"


def _show(text: str, matches: Sequence[str]) -> None:
    """Print the last parts of the proposals in a line below, then the line that is edited again."""
    import readline

    names = [match.rstrip(" ").rstrip("/").replace("/ ", " ").rpartition("/")[2] or match for match in matches]
    print("\n" + in_columns(names) + f"\n{PROMPT}{readline.get_line_buffer()}", end="", flush=True)


def in_columns(names: Sequence[str]) -> str:
    """Return names side by side, as many in a line as the terminal has places for."""
    width = max(map(width_of, names)) + 2
    num_columns = max(shutil.get_terminal_size().columns // width, 1)
    rows = [names[start : start + num_columns] for start in range(0, len(names), num_columns)]
    return "\n".join("".join(padded(name, width) for name in row).rstrip() for row in rows)
