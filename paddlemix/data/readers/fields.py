"""Checks of single fields that every row format shares."""

from __future__ import annotations

from typing import Any

from .errors import WrongRoleError


def get(row: dict, key: str, kind: type, owner: str) -> Any:
    """Return row[key]. Raises ValueError when it is missing or not of the kind; owner names the row or turn."""
    if key not in row:
        raise ValueError(f"{owner} has no {key!r}: found the keys {', '.join(map(repr, row)) or '(none)'}")
    if not isinstance(row[key], kind):
        raise ValueError(f"{owner}: {key!r} must be {_NAMES[kind]}, found {show(row[key])}")
    return row[key]


def get_role(name: Any, roles: dict[str, str], owner: str) -> str:
    """Return our role for the one a file uses."""
    if not isinstance(name, str) or name not in roles:
        raise WrongRoleError(f"{owner}: unknown role {show(name)}, expected one of {', '.join(roles)}")
    return roles[name]


def row_images(row: dict) -> list:
    """Return the pictures of a row: "image" or "images", one or a list; none when absent, null or an empty list."""
    if row.get("image") is not None and row.get("images") is not None:
        raise ValueError("the row has both 'image' and 'images': expected one of them")
    key = "image" if row.get("image") is not None else "images"
    value = row.get(key)
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    return [image_source(each, repr(key)) for each in values]


def image_source(value: Any, owner: str) -> str:
    """Return the path, URL or data URI of a picture: a string, or an object that has one under "url" or "path"."""
    if isinstance(value, dict):
        value = next((value[key] for key in ("url", "path") if value.get(key)), value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{owner} must be a path, URL or data URI, or a list of them; found {show(value)}")
    return value


def show(value: Any, max_length: int = 80) -> str:
    """Return a short text of a value and its type for an error."""
    text = repr(value)
    return f"{text if len(text) <= max_length else text[:max_length] + '...'} ({type(value).__name__})"


_NAMES = {str: "a string", list: "a list", dict: "an object"}
