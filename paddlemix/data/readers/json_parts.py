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


def find_members(text: str, start: int) -> dict[str, int]:
    """Return where the value of each key starts in the object that opens at start.

    Empty if the object never ends, if a part of it is no member, and if it names a key twice.
    """
    found = find_parts(text, start)
    matches = [_KEY.match(text, *place) for place in found[0]] if found else []
    try:
        members = {json.loads(match.group(1)): match.end() for match in matches if match}
    except json.JSONDecodeError:  # a key with an escape that there is not
        return {}
    return members if len(members) == len(matches) else {}
