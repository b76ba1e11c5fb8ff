"""Put values that nobody expects in place of each value of a row."""

from __future__ import annotations

import copy

HOSTILE = [None, True, 0, -1, 10**30, 1.5, float("nan"), "", " ", "a", "\ud800", "<image>", "../x", "A)", b"x"]
HOSTILE += [[], {}, [None], [[]], {"a": 1}, {"": []}, "[" * 2000, "I.e. x", ["a"] * 30, ["", "\0"], [{"cil_pairs": 1}]]


def places(value, path=()):
    """Yield the path of each value in a row."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(row, path, new):
    """Return a copy of a row with the value at a path replaced, or its key removed if new is Ellipsis."""
    if not path:
        return new if new is not ... else None
    row = copy.deepcopy(row)
    owner = row
    for key in path[:-1]:
        owner = owner[key]
    if new is ...:
        del owner[path[-1]]
    else:
        owner[path[-1]] = new
    return row
