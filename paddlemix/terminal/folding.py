"""Long commands over several lines of a terminal, each broken where a shell or a reader goes on."""

from __future__ import annotations

import re

_OPTION = r"--\S+(?: (?!--|&&|\|)(?:'[^']*'|\"[^\"]*\"|[^\s\[])+)*"  # with its values
COMMAND_PARTS = re.compile(rf"{_OPTION}|(?:'[^']*'|\"[^\"]*\"|\S)+")
USAGE_PARTS = re.compile(rf"\[[^\[\]]*\]|{_OPTION}|\S+")
BACKSLASH = " \\"  # at the end of a line of a command that goes on


def folded(line: str, width: int, parts: re.Pattern[str], indent: str, end: str = "") -> list[str]:
    """Return a line as several of at most `width` characters, as far as its parts allow.

    parts: matches what stays together. indent: of the further lines. end: of each line but the last.
    """
    if len(line) <= width:
        return [line]
    first, *others = parts.findall(line)
    lines = [line[: len(line) - len(line.lstrip())] + first]
    for found in others:
        if len(f"{lines[-1]} {found}{end}") <= width:
            lines[-1] += f" {found}"
        else:
            lines.append(f"{indent}{found}")
    return [f"{one}{end}" for one in lines[:-1]] + lines[-1:]
