"""Checks of single fields that every row format shares."""

from __future__ import annotations

from typing import Any

from .errors import UnsupportedKeyError, WrongRoleError

ROLES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}
_TOOL_ROLES = ("tool", "tool_call", "tool_response", "function", "function_call", "function_response", "observation")
TOOL_ROLES = frozenset((*_TOOL_ROLES, "tool_calls", "tool_result", "observations", "ipython"))


def get(row: dict, key: str, kind: type, owner: str) -> Any:
    """Return row[key]. Raises ValueError when it is missing or not of the kind; owner names the row or turn."""
    if key not in row:
        raise ValueError(f"{owner} has no {key!r}: found the keys {key_names(row)}")
    if not isinstance(row[key], kind):
        raise ValueError(f"{owner}: {key!r} must be {_NAMES[kind]}, found {show(row[key])}")
    return row[key]


def one_key(values: dict, keys: tuple[str, ...], owner: str) -> str:
    """Return which of some keys a row or turn has. Raises ValueError when it has none, or says two different things."""
    first = None
    for key in keys:
        if values.get(key) is None:
            continue
        if first is None:
            first = key
        elif not (isinstance(values[key], str) and values[key] == values[first]):
            raise ValueError(f"{owner} has both {first!r} and {key!r}, which differ: expected one of them")
    first = next((key for key in keys if key in values), None) if first is None else first
    if first is None:
        raise ValueError(f"{owner} has no {' or '.join(map(repr, keys))}: found the keys {key_names(values)}")
    return first


def get_text(values: dict, keys: tuple[str, ...], owner: str) -> str:
    """Return the text under one of some keys. Raises ValueError as `get` and `one_key`."""
    return get(values, one_key(values, keys, owner), str, owner)


def get_role(name: Any, owner: str) -> str:
    """Return our role for the one a file uses."""
    expected = f"expected one of {', '.join(ROLES)}"
    if isinstance(name, str) and name.replace("-", "_") in TOOL_ROLES:
        raise UnsupportedKeyError(f"{owner}: role {name!r} is of tool calls, which are not supported; {expected}")
    if not isinstance(name, str) or name not in ROLES:
        raise WrongRoleError(f"{owner}: unknown role {show(name)}, {expected}")
    return ROLES[name]


def check_unicode(text: str, owner: str) -> None:
    """Raise ValueError for a text that holds half of a surrogate pair, which JSON can and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{owner}: {text[error.start]!r} at character {error.start} is half of a surrogate pair, which is no "
            "character: write the text again from its source"
        ) from None


def key_names(values: dict, most: int = 20) -> str:
    """Return the keys of an object for a message."""
    names = ", ".join(show(key, with_type=False) for key in list(values)[:most])
    return f"{names or '(none)'}{', ...' if len(values) > most else ''}"


def show(value: Any, max_length: int = 80, *, with_type: bool = True) -> str:
    """Return a short text of a value and its type for an error."""
    try:
        text = repr(value[: 2 * max_length] if isinstance(value, str) else value)
    except RecursionError:
        text = "lists or objects inside each other"
    text = text if len(text) <= max_length else text[:max_length] + "..."
    return f"{text} ({type(value).__name__})" if with_type else text


_NAMES = {str: "a string", list: "a list", dict: "an object"}
