"""Texts in columns of a terminal, where a Chinese character takes two places and a combining one none."""

from __future__ import annotations

import textwrap
import unicodedata

ELLIPSIS = "…"


def width_of(text: str) -> int:
    """Return the number of places that a line of text takes."""
    return sum(_width(char) for char in text)


def shortened(text: str, max_width: int) -> str:
    """Return a text of at most `max_width` places; what is cut is an ellipsis at the end."""
    if width_of(text) <= max_width:
        return text
    left, kept = max_width - width_of(ELLIPSIS), []
    for char in text:
        left -= _width(char)
        if left < 0:
            break
        kept.append(char)
    return "".join(kept) + ELLIPSIS


def shortened_within(text: str, max_width: int) -> str:
    """Return a text of at most `max_width` places; what is cut is an ellipsis in the middle, as of a long path."""
    if width_of(text) <= max_width:
        return text
    right = (max_width - 1) // 2
    end = text[-right:]
    while width_of(end) > right:
        end = end[1:]
    return shortened(text, max_width - width_of(end)) + end


def padded(text: str, width: int, is_right: bool = False) -> str:
    """Return a text with spaces up to a width, in front of it if it is aligned to the right."""
    spaces = " " * (width - width_of(text))
    return spaces + text if is_right else text + spaces


def wrapped(text: str, max_width: int) -> list[str]:
    """Return the lines of a text, broken at spaces; a word longer than a line, as Chinese text, is broken anywhere."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if width_of(joined) <= max_width:
            lines[-1] = joined
            continue
        lines.append("")
        for char in word:
            if width_of(lines[-1] + char) > max_width:
                lines.append("")
            lines[-1] += char
    return [line for line in lines if line]


def beside(label: str, text: str, max_width: int = 80) -> list[str]:
    """Return the lines of a text beside a label of one place a character; words that are longer than a line stay."""
    lines = textwrap.wrap(text, max_width - len(label), break_long_words=False, break_on_hyphens=False) or [""]
    return [f"{label}{lines[0]}", *(" " * len(label) + line for line in lines[1:])]


def _width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1
