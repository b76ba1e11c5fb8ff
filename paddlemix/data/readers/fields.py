"""Read and check single fields, for all row formats."""

from __future__ import annotations

from typing import Any

from .errors import BadRowError, UnsupportedKeyError

ROLES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}
_TOOL_ROLES = ("tool", "tool_call", "tool_response", "function", "function_call", "function_response", "observation")
TOOL_ROLES = frozenset((*_TOOL_ROLES, "tool_calls", "tool_result", "observations", "ipython"))


def get(row: dict, key: str, kind: type, owner: str) -> Any:
    """Return row[key]. Raises ValueError if it is missing or has another type. owner: the row or turn, for errors."""
    if key not in row:
        raise ValueError(f"{owner} has no {key!r}: found the keys {key_names(row)}")
    if not isinstance(row[key], kind):
        raise ValueError(f"{owner}: {key!r} must be {_NAMES[kind]}, found {show(row[key])}")
    return row[key]


def one_key(values: dict, keys: tuple[str, ...], owner: str) -> str:
    """Return the one of some keys that a row or turn has. Raises ValueError for none, and for two different values."""
    present = [key for key in keys if key in values]
    if not present:
        raise ValueError(f"{owner} has no {' or '.join(map(repr, keys))}: found the keys {key_names(values)}")
    first, *others = [key for key in present if values[key] is not None] or present[:1]
    for key in others:
        if not (isinstance(values[key], str) and values[key] == values[first]):
            raise ValueError(f"{owner} has both {first!r} and {key!r}, which differ: expected one of them")
    return first


def get_text(values: dict, keys: tuple[str, ...], owner: str) -> str:
    """Return the text under one of some keys. Raises ValueError as `get` and `one_key`."""
    return get(values, one_key(values, keys, owner), str, owner)


def turn_name(key: str, index: int) -> str:
    """Return the name of a turn for an error. People count from 1."""
    return f"turn {index + 1} of {key!r}"


def get_role(name: Any, owner: str) -> str:
    """Return the role of a message for the role in a file."""
    expected = f"expected one of {', '.join(ROLES)}"
    if isinstance(name, str) and name.replace("-", "_") in TOOL_ROLES:
        raise UnsupportedKeyError(f"{owner}: role {name!r} belongs to tool calls, which are not supported; {expected}")
    if not isinstance(name, str) or name not in ROLES:
        raise BadRowError(f"{owner}: unknown role {show(name)}, {expected}", "wrong_role")
    return ROLES[name]


def key_names(values: dict, max_names: int = 20) -> str:
    """Return the keys of an object for a message."""
    names = ", ".join(show(key, with_type=False) for key in list(values)[:max_names])
    return f"{names or '(none)'}{', ...' if len(values) > max_names else ''}"


def show(value: Any, max_length: int = 80, *, with_type: bool = True) -> str:
    """Return a short text of a value and its type for an error."""
    try:
        text = repr(value[: 2 * max_length] if isinstance(value, str) else value)
    except RecursionError:
        text = "nested lists or objects"
    text = text if len(text) <= max_length else text[:max_length] + "..."
    return f"{text} ({type(value).__name__})" if with_type else text


_NAMES = {str: "a string", list: "a list", dict: "an object"}
