"""Where the parts of a JSON list or object start and end, unread: so one bad part leaves the others whole."""

from __future__ import annotations

import json
import re

_TEXT = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_TOKEN = re.compile(rf"{_TEXT}|[\[\]{{}},]", re.DOTALL)
_KEY = re.compile(rf"\s*({_TEXT})\s*:\s*", re.DOTALL)

Place = tuple[int, int]  # start and end in the text


def find_parts(text: str, start: int) -> tuple[list[Place], int] | None:
    """Return the parts of the list or object that opens at start, and where it ends; None if it never does."""
    depth, begin, places = 0, start + 1, []
    for token in _TOKEN.finditer(text, start):
        mark = text[token.start()]
        depth += (mark in "[{") - (mark in "]}")
        if depth == 0 or (depth == 1 and mark == ","):
            places.append((begin, token.start()))
            begin = token.end()
        if depth == 0:
            return places, token.end()
    return None


def list_parts(text: str, key: str) -> list[Place]:
    """Return the parts of a list, or of the list under a key of an object; none where there is no such list."""
    start = len(text) - len(text.lstrip())
    if text.startswith("{", start):
        start = _find_value(text, start, key)
    if start is None or not text.startswith("[", start):
        return []
    found = find_parts(text, start)
    return found[0] if found else []


def _find_value(text: str, start: int, key: str) -> int | None:
    """Return where the value of a key starts in the object that opens at start."""
    found = find_parts(text, start)
    for begin, end in found[0] if found else ():
        match = _KEY.match(text, begin, end)
        if match and json.loads(match.group(1)) == key:
            return match.end()
    return None
